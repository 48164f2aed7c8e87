"""A saved adapter, checked before anything is computed with it: it may come from somebody else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import repro.adapters  # noqa: F401  the import registers the tuners
from repro.config import ConfigError
from repro.models.saved import read_mapping
from repro.reading import excerpt

_MERGEABLE = ("DELTA_LORA", "DUAL_LORA", "FLORA", "LORA", "MORA")

_REASONS = {
    "BOTTLENECK": "a bottleneck adapter is not linear in its input, so no weight can hold it",
    "PREFIX_TUNING": "a prefix is keys and values of the attention, so no weight can hold it",
    "PROMPT_TUNING": "a prompt is input of the model, so no weight can hold it",
    "P_TUNING": "a prompt is input of the model, so no weight can hold it",
}

# Settings of peft's LoRA that this may meet. Others change the base model as they are loaded, name modules to
# import, or adapt what is no layer: they must have their defaults.
_OF_LORA = {field.name for field in fields(PeftConfig)} | {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias",
    "use_rslora", "use_dora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "runtime_config", "loftq_config",
}  # fmt: skip
_INITS_OF_LORA = (True, False, "gaussian")

_PREFIX = "base_model.model."


class Adapter:
    """An adapter's settings and its tensors, which are read when they are needed.

    Attributes:
        config: the tuner's configuration.
        base: the base model's name or folder that the configuration gives, and its revision.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError: the folder holds no adapter that can be read, or one that cannot be merged."""
        self._folder = folder
        self._config_file = folder / "adapter_config.json"
        self.config: Any = read_config(self._config_file)
        self.base = (self.config.base_model_name_or_path, self.config.revision)
        self._file = folder / "adapter_model.safetensors"
        if not self._file.is_file():
            raise ConfigError(f"{self._file} is missing; weights are read from no other file")
        try:
            self._tensors = safe_open(self._file, framework="pt")
            self.shapes = {name: tuple(self._slice(name).get_shape()) for name in self._tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{self._file}: cannot be read ({excerpt(str(error))})") from error

    def attach(self, model: nn.Module) -> None:
        """Find the layers that the adapter changes in a model on the meta device, and check all names.

        Afterwards `layers` and `trained` are known. The model is changed.

        Raises:
            ConfigError: the adapter does not fit this model.
        """
        names = dict(model.state_dict())
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about tied weights; `merge` refuses those by name
                adapted = get_peft_model(model, deepcopy(self.config), low_cpu_mem_usage=True)
                expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        except Exception as error:  # see above
            raise self._fault(f"does not fit {type(model).__name__} ({excerpt(str(error))})") from error
        for name in sorted(expected.keys() - self.shapes.keys()):
            raise ConfigError(f"{self._file}: it lacks {name}, which {self._config_file.name} asks for")
        for name, shape in self.shapes.items():
            if name not in expected:
                raise ConfigError(
                    f"{self._file}: it has {excerpt(name)}, which {self._config_file.name} does not ask for"
                )
            if shape != tuple(expected[name].shape):
                wanted = tuple(expected[name].shape)
                raise ConfigError(f"{self._file}: {name} is {shape}, on this base it must be {wanted}")
        self._layers: dict[str, nn.Module] = {
            name.removeprefix(_PREFIX): layer.get_base_layer()
            for name, layer in adapted.named_modules()
            if isinstance(layer, BaseTunerLayer)
        }
        plain = {name: name.removeprefix(_PREFIX).replace(".base_layer.", ".") for name in self.shapes}
        self.trained = {inside: name for name, inside in plain.items() if inside in names}

    @property
    def layers(self) -> list[str]:
        """Paths of the adapted layers in the base model."""
        return list(self._layers)

    def merged(self, path: str, weight: Tensor) -> Tensor:
        """W0 + dW of the layer at a path, computed by the tuner itself on a model that has this layer alone.

        Raises:
            ConfigError: the result holds what is no finite number.
        """
        layer = deepcopy(self._layers[path]).to_empty(device="cpu").requires_grad_(False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        config = copy(self.config)
        # At its own path, which patterns of ranks match, and with nothing beside it.
        config.target_modules, config.exclude_modules, config.modules_to_save = {path}, None, None
        config.layers_to_transform = config.layers_pattern = config.task_type = None
        if hasattr(config, "bias"):
            config.bias = "none"
        alone = get_peft_model(_at(path, layer), config)
        start = f"{_PREFIX}{path}."
        own = [name for name in self.shapes if name.startswith(start) and name not in self.trained.values()]
        set_peft_model_state_dict(alone, {name: self.tensor(name) for name in own})
        # Checked here and not by `safe_merge`, under which peft rounds a LoRA's dW before it is added.
        result: Tensor = alone.merge_and_unload().get_submodule(path).weight.detach()
        if not result.isfinite().all():
            raise ConfigError(f"{self._file}: {path}: its merged weight holds what is no finite number")
        return result

    def tensor(self, name: str) -> Tensor:
        """A tensor of the file.

        Raises:
            ConfigError: it holds what is no finite number.
        """
        found: Tensor = self._tensors.get_tensor(name)
        if not found.isfinite().all():
            raise ConfigError(f"{self._file}: {excerpt(name)} holds what is no finite number")
        return found

    def labels(self) -> int | None:
        """Rows of a trained classification head, which are the number of labels; None if there is none."""
        if self.config.task_type not in ("SEQ_CLS", "TOKEN_CLS"):
            return None
        heads = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
        return next((shape[0] for name, shape in self.shapes.items() if name.endswith(heads)), None)

    def files(self) -> Mapping[str, Path]:
        """The ordinary files of the folder, by name."""
        return {path.name: path for path in self._folder.iterdir() if path.is_file()}

    def _slice(self, name: str) -> Any:
        return self._tensors.get_slice(name)

    def _fault(self, reason: str) -> ConfigError:
        return ConfigError(f"{self._config_file}: {reason}")


def read_config(path: Path) -> PeftConfig:
    """The configuration of an adapter that can be merged.

    Raises:
        ConfigError: it is missing or damaged, or of another adapter.
    """
    method = read_mapping(path).get("peft_type")
    if method not in _MERGEABLE:
        known = isinstance(method, str) and method in list(PEFT_TYPE_TO_CONFIG_MAPPING)
        reason = _REASONS.get(str(method)) if known else "peft has no such method"
        raise ConfigError(
            f"{path}: {excerpt(repr(method))} cannot be merged: "
            f"{reason or 'this command knows ' + ', '.join(_MERGEABLE) + '; use merge_and_unload'}"
        )
    try:
        config: Any = PeftConfig.from_pretrained(str(path.parent))
    except Exception as error:  # peft checks neither keys nor types, so any may come of what is received
        raise ConfigError(f"{path}: not a configuration of {method} ({excerpt(str(error))})") from error
    if getattr(config, "target_parameters", None):
        raise ConfigError(f"{path}: target_parameters: only layers are merged here; use merge_and_unload")
    if config.peft_type == "LORA":
        _check_lora(config, path)
    return config


def _check_lora(config: Any, path: Path) -> None:
    standard = type(config)()
    for name in sorted({field.name for field in fields(config)} - _OF_LORA):
        value = getattr(config, name)
        if value != getattr(standard, name):
            shown = excerpt(repr(value))
            raise ConfigError(f"{path}: {name}={shown} cannot be merged here; use merge_and_unload")
    start = config.init_lora_weights
    if start not in _INITS_OF_LORA:
        shown = excerpt(repr(start))
        raise ConfigError(
            f"{path}: init_lora_weights={shown} changes the base model; convert it to plain LoRA first"
        )


def _at(path: str, layer: nn.Module) -> nn.Module:
    """A model that has a layer at a path and nothing else."""
    for part in reversed(path.split(".")):
        parent = nn.Module()
        parent.add_module(part, layer)
        layer = parent
    return layer
