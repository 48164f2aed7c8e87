"""What a method is: how a base model becomes trainable, by which optimiser, and how that is checked and kept.

Each row label of the paper is one subclass in a file of its own. An instance is pure configuration: it can be
written into a result file, hashed and compared, and torch is imported only when a method meets a model.
Random numbers come from torch's global generator, so whoever calls `attach` sets the seed before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from repro.config import Frozen
from repro.models.head import head_modules, without_head

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from repro.models.shapes import LinearShape


class MethodError(RuntimeError):
    """A method cannot do what was asked of it, or did not build what its name says."""


class OptimizerSettings(Frozen):
    """AdamW as LLM-Adapters, DoRA and HiRA use it for commonsense (HiRA, appendix A: no weight decay)."""

    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(default=0.0, ge=0)


class AdapterCost(NamedTuple):
    """What the adapter of one linear map adds to one training pass, forward and backward.

    Attributes:
        flops: floating-point operations of its matrix products, 2 a multiply-add.
        kept: numbers that the forward pass keeps for the backward pass besides the map's input and output, a
            weight built anew for instance.
        transient: numbers that exist while the map itself is passed, and no longer.
    """

    flops: float
    kept: int = 0
    transient: int = 0


class AttachReport(Frozen):
    """What was really built, classification heads not counted.

    Attributes:
        layer: class of the adapted layers with its module, empty when the method adapts none.
        adapted_layers: how many there are.
        trainable_parameters: number of trained parameters.
        total_parameters: number of all parameters, the adapters' included.
    """

    layer: str
    adapted_layers: int
    trainable_parameters: int
    total_parameters: int

    @property
    def percent(self) -> float:
        """The paper's "Params (%)" column: trained parameters out of base and adapters."""
        return 100 * self.trainable_parameters / self.total_parameters


class Method(Frozen, ABC):
    """A row label of the paper, with the settings that the paper or its source publishes as defaults.

    Attributes:
        label: the row's label in the paper's tables.
        citation: the paper that proposes the method.
        mergeable: whether a trained model can become a plain one of the same architecture.
        trains: whether there is anything to train.
        flops_per_weight: of a weight of the model's own linear maps, for every token of a training pass: 2
            forward, and 2 for the gradient of the map's input; 2 more where the weight itself is trained.
        name: the word for the method in experiment files.
    """

    label: ClassVar[str]
    citation: ClassVar[str]
    mergeable: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    flops_per_weight: ClassVar[int] = 4

    name: str

    @abstractmethod
    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        """Make a base model trainable by this method, in place, and return what is to be trained.

        Args:
            model: a base model, as `repro.models.loading.load_model` returns it.
            targets: names of the modules to adapt, by the end of their path.
            task_type: `causal_lm` or `seq_cls`.
        """

    @property
    def printed_rank(self) -> int | None:
        """The rank that a table prints beside the method; None of a method without one."""
        return getattr(self, "rank", None)

    @property
    def calibration_examples(self) -> int:
        """How many training examples `calibrate` wants to see; most methods want none."""
        return 0

    def calibrate(
        self, model: nn.Module, inputs: Sequence[dict[str, Tensor]], targets: Sequence[str], task_type: str
    ) -> None:
        """Look at training inputs before `attach`; each is the model's keyword arguments for one example.

        Raises:
            MethodError: the method has no use for them.
        """
        raise MethodError(f"{self.name}: is not calibrated; attach it without")

    @abstractmethod
    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        """Number of trained parameters by formula, classification heads not counted.

        Args:
            shapes: the targeted linear maps of all layers.
            base_parameters: number of parameters of the base model.
        """

    @abstractmethod
    def save(self, model: nn.Module, directory: Path) -> None:
        """Write what was trained into a folder."""

    @abstractmethod
    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        """Rebuild on a base model, in place, what `save` wrote; the result can be trained further."""

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        """Those of the targeted linear maps that get an adapter."""
        return list(shapes)

    def adapted_layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of a model that carry this method's adapter."""
        return []

    def kernel(self, model: nn.Module) -> Literal["triton", "c", "torch"] | None:
        """What computes the adapters of a model where it now is; None of a method that has no choice."""
        return None

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """What adapting one of the `adapted` maps adds to a training pass of so many tokens."""
        return AdapterCost(0)

    def optimizer_numbers(self, linears: Sequence[LinearShape], trained: int) -> int:
        """Numbers that the optimiser keeps between two steps: AdamW two moments of each trained parameter.

        Args:
            linears: the linear maps of all blocks, targeted or not.
            trained: number of trained parameters.
        """
        return 2 * trained

    def optimizer(self, model: nn.Module, settings: OptimizerSettings) -> Optimizer:
        """The optimiser over everything that is trained."""
        import torch

        return torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold what was trained into the base weights, in place, and return the plain model.

        Raises:
            MethodError: the method cannot be merged.
        """
        if not self.mergeable:
            raise MethodError(f"{self.name}: cannot be merged into the base weights; evaluate it unmerged")
        return model

    def verify(
        self, model: nn.Module, targets: Sequence[str], shapes: Sequence[LinearShape], base_parameters: int
    ) -> AttachReport:
        """Compare what `attach` built with what the method's name and formula promise.

        Raises:
            MethodError: the class, the number or the size of what was built differs.
        """
        from peft import PeftModel

        expected_layers = len(self.adapted(shapes))
        layers = self.adapted_layers(model)
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        sizes = [(p.numel(), p.requires_grad) for p in without_head(base, model.parameters())]
        report = AttachReport(
            layer=", ".join(sorted({f"{type(layer).__module__}.{type(layer).__name__}" for layer in layers})),
            adapted_layers=len(layers),
            trainable_parameters=sum(size for size, trained in sizes if trained),
            total_parameters=sum(size for size, _ in sizes),
        )
        expected = self.trainable_parameters(shapes, base_parameters)
        found = report.trainable_parameters
        if report.adapted_layers != expected_layers:
            raise MethodError(
                f"{self.name}: {report.adapted_layers} layers were adapted on the targets "
                f"{', '.join(targets)}, expected {expected_layers}"
            )
        if found != expected:
            raise MethodError(f"{self.name}: {found:,} parameters are trained, expected {expected:,}")
        return report


class PeftMethod(Method):
    """A method that is a tuner of peft, ours included: adapters beside frozen weights.

    Attributes:
        dense_update: whether an adapter builds its update as a (d, k) matrix and multiplies the input by it,
            as peft's HiRA does. Otherwise the input passes through the trained factors.
    """

    dense_update: ClassVar[bool] = False

    @abstractmethod
    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> PeftConfig:
        """The tuner's configuration. `task_type` is peft's word, and the task's head is left to `attach`."""

    @abstractmethod
    def layer_class(self) -> type:
        """The class that every adapted layer must have."""

    @abstractmethod
    def adapter_parameters(self, shape: LinearShape) -> int:
        """Number of trained parameters that one adapted linear map adds."""

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """The cost of three products: forward, gradient of the input, gradient of the parameters.

        Factors that the input passes through cost 2 FLOPs a parameter and token in each. A dense update costs
        2 T d k in each, and is itself a product of inner size n = parameters / (d + k) with the same three.
        """
        parameters, size = self.adapter_parameters(shape), shape.parameters
        if not self.dense_update:
            return AdapterCost(6 * tokens * parameters)
        inner = parameters / (shape.out_features + shape.in_features)
        # The update is kept for the backward pass, where its gradient is as large.
        return AdapterCost(6 * (tokens + inner) * size, kept=size, transient=size)

    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        return sum(self.adapter_parameters(shape) for shape in self.adapted(shapes))

    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        from peft import get_peft_model

        config = self.peft_config(targets, task_type.upper(), model)
        # peft trains what is named like a classifier, which leaves DeBERTa's pooler at its random start.
        config.modules_to_save = head_modules(model) or None  # type: ignore[attr-defined]
        return get_peft_model(model, config)

    def adapted_layers(self, model: nn.Module) -> list[nn.Module]:
        layer_class = self.layer_class()
        # peft has another class over a weight of four bits, by this name in the same tuner's package.
        package = import_module(layer_class.__module__.rpartition(".")[0])
        classes = (layer_class, getattr(package, "Linear4bit", None) or layer_class)
        return [module for module in model.modules() if isinstance(module, classes)]

    def save(self, model: nn.Module, directory: Path) -> None:
        # No tuner here touches the embeddings; "auto" would ask the hub whether the vocabulary had grown.
        model.save_pretrained(str(directory), save_embedding_layers=False)  # type: ignore[operator]

    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        from peft import PeftModel

        self.layer_class()  # its import makes a tuner of ours known to peft, which a fresh process lacks
        return PeftModel.from_pretrained(base_model, str(directory), is_trainable=True)

    def merge(self, model: nn.Module) -> nn.Module:
        model = super().merge(model)
        # Where peft takes a wrapper off it also copies `weight`, which a head of several layers lacks.
        model.base_model._replace_module = _unwrap  # type: ignore[union-attr]
        return model.merge_and_unload(safe_merge=True)  # type: ignore[operator]


def _unwrap(parent: nn.Module, name: str, module: nn.Module, wrapper: nn.Module) -> None:
    setattr(parent, name, module)


def stores_transposed(model: nn.Module, targets: Sequence[str]) -> bool:
    """Whether the targets are GPT-2's Conv1D, which stores (in, out) where torch stores (out, in)."""
    from transformers.pytorch_utils import Conv1D

    return any(
        isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    )


def draw_seed() -> int:
    """A seed from torch's global generator, for a tuner that would draw fixed matrices from one of its own.

    peft's is always 0 by default, which would give every run the same ones.
    """
    import torch

    return int(torch.randint(2**31, (), device="cpu"))
