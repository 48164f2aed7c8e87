"""Methods that are tuners of peft, ours included: how one attaches, is saved, loaded and merged."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from repro.config import ConfigError
from repro.methods.base import AdapterCost, Method
from repro.models.head import head_modules
from repro.models.saved import read_mapping
from repro.reading import excerpt

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn

    from repro.models.shapes import LinearShape


class PeftMethod(Method):
    """A method that is a tuner of peft, ours included: adapters beside frozen weights.

    Attributes:
        dense_update: whether an adapter builds its update as a (d, k) matrix and multiplies the input by it,
            as peft's HiRA does. Otherwise the input passes through the trained factors.
    """

    dense_update: ClassVar[bool] = False

    @abstractmethod
    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> PeftConfig:
        """The tuner's configuration. `task_type` is peft's name; `attach` handles the task's head."""

    @abstractmethod
    def layer_class(self) -> type:
        """The class that every adapted layer must have."""

    @abstractmethod
    def adapter_parameters(self, shape: LinearShape) -> int:
        """Number of trained parameters of the adapter of one linear map."""

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """The cost of three products: forward, gradient of the input, gradient of the parameters.

        Factors that the input passes through cost 2 FLOPs a parameter and token in each. A dense update costs
        2 T d k in each, and is itself a product of inner size n = parameters / (d + k) with the same three.
        """
        parameters, size = self.adapter_parameters(shape), shape.parameters
        # Casts of the input to the factors' precision and back, and the scaled sum with the map's output.
        moved = tokens * (30 * shape.in_features + 18 * shape.out_features)
        operations = 18
        if getattr(self, "dropout", 0):
            moved, operations = moved + 40 * tokens * shape.in_features, operations + 4
        if not self.dense_update:
            return AdapterCost(6 * tokens * parameters, operations=operations, moved=moved)
        inner = parameters / (shape.out_features + shape.in_features)
        # The update is kept for the backward pass, where its gradient is as large.
        return AdapterCost(
            6 * (tokens + inner) * size,
            kept=size,
            transient=size,
            operations=operations,
            moved=moved + 12 * size,
        )

    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        return sum(self.adapter_parameters(shape) for shape in self.adapted(shapes))

    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        config = self.peft_config(targets, task_type.upper(), model)
        # By default peft trains only modules named like a classifier: DeBERTa's pooler would stay random.
        config.modules_to_save = head_modules(model) or None  # type: ignore[attr-defined]
        return self.build(model, config)

    def build(self, model: nn.Module, config: PeftConfig) -> PeftModel:
        """The model with fresh adapters, in place."""
        from peft import get_peft_model

        return get_peft_model(model, config)

    def adapted_layers(self, model: nn.Module) -> list[nn.Module]:
        layer_class = self.layer_class()
        # For 4-bit weights peft has another class, with this name, in the same tuner's package.
        package = import_module(layer_class.__module__.rpartition(".")[0])
        classes = (layer_class, getattr(package, "Linear4bit", None) or layer_class)
        return [module for module in model.modules() if isinstance(module, classes)]

    def save(self, model: nn.Module, directory: Path) -> None:
        # No tuner here changes the embeddings; "auto" would ask the hub whether the vocabulary has grown.
        model.save_pretrained(str(directory), save_embedding_layers=False)  # type: ignore[operator]

    def saved(self, model: nn.Module) -> tuple[str, dict[str, Tensor]]:
        from peft import get_peft_model_state_dict

        return _WEIGHTS, get_peft_model_state_dict(model, save_embedding_layers=False)

    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        config = self.loading_config(base_model, directory, targets, task_type)
        config.modules_to_save = head_modules(base_model) or None  # type: ignore[attr-defined]
        model = self.build(base_model, config)
        self.restore(model, directory)  # peft itself would fill gaps with random weights, or read a pickle
        return model

    def reload(self, model: nn.Module, directory: Path) -> None:
        # What is drawn from a saved seed is in no file of tensors: an equal seed draws the same.
        configs: Any = model.peft_config
        _check_settings(directory / _CONFIG, configs["default"])
        super().reload(model, directory)

    def loading_config(
        self, model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> PeftConfig:
        """The tuner's configuration for loading, from these settings; the saved one must agree with it.

        Raises:
            ConfigError: the saved one is missing or damaged, or of other settings.
        """
        import torch

        path = directory / _CONFIG
        with torch.random.fork_rng(devices=[]):  # a seed that is drawn now counts for nothing
            config = self.peft_config(targets, task_type.upper(), model)
        config.modules_to_save = head_modules(model) or None  # type: ignore[attr-defined]
        drawn = read_mapping(path).get(_DRAWN)
        if hasattr(config, _DRAWN) and type(drawn) is int and 0 <= drawn < 2**31:
            setattr(config, _DRAWN, drawn)
        _check_settings(path, config)
        return config

    def merge(self, model: nn.Module) -> nn.Module:
        model = super().merge(model)
        # peft's own version also copies `weight`, which a head of several layers does not have.
        model.base_model._replace_module = _unwrap  # type: ignore[union-attr]
        return model.merge_and_unload(safe_merge=True)  # type: ignore[operator]


# What peft writes.
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# The seed of matrices that are drawn again when a model is loaded; it is in no other file.
_DRAWN = "projection_prng_key"

# Entries of a saved configuration that are no settings of the method. peft adds names of its own to
# `modules_to_save`; which modules were saved, the tensors' names say.
_OF_NO_SETTING = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save", "peft_version", "revision"
)  # fmt: skip


def _check_settings(path: Path, config: PeftConfig) -> None:
    """Compare a saved configuration with the one that a model has or is to get.

    Raises:
        ConfigError: it is missing or damaged, or of other settings.
    """
    saved = read_mapping(path)
    for name, value in json.loads(json.dumps(config.to_dict(), default=list)).items():
        # What is None here, peft fills in as it builds the model.
        found = saved.get(name)
        if value is not None and name not in _OF_NO_SETTING and _sorted(found) != _sorted(value):
            shown = excerpt(repr(found))
            raise ConfigError(f"{path}: not of these settings ({name} is {shown}, the run has {value!r})")


def _sorted(value: Any) -> Any:
    """Names in a saved configuration are in no order."""
    return sorted(value, key=repr) if isinstance(value, list) else value


def _unwrap(parent: nn.Module, name: str, module: nn.Module, wrapper: nn.Module) -> None:
    setattr(parent, name, module)


def stores_transposed(model: nn.Module, targets: Sequence[str]) -> bool:
    """Whether the targets are GPT-2's Conv1D, which stores (in, out) instead of torch's (out, in)."""
    from transformers.pytorch_utils import Conv1D

    return any(
        isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    )


def draw_seed() -> int:
    """A seed from torch's global generator, for a tuner that draws fixed matrices with its own generator.

    peft's default seed is always 0, which would give every run the same matrices.
    """
    import torch

    return int(torch.randint(2**31, (), device="cpu"))
