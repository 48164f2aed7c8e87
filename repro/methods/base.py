"""The interface of a method: how it attaches to a base model, its optimiser, checks, saving and merging.

Each row label of the paper is a subclass in its own file. An instance is pure configuration: it can be
written into a result file, hashed and compared. torch is imported only when a method is attached to a model.
Random numbers come from torch's global generator, so set the seed before `attach`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from repro.config import ConfigError, Frozen
from repro.models.head import without_head
from repro.models.saved import read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from repro.models.shapes import LinearShape


class MethodError(RuntimeError):
    """A method cannot do what was asked, or did not build what its name says."""


class OptimizerSettings(Frozen):
    """AdamW as LLM-Adapters, DoRA and HiRA use it for commonsense (HiRA, appendix A: no weight decay)."""

    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(default=0.0, ge=0)


class AdapterCost(NamedTuple):
    """The cost that the adapter of one linear map adds to a training pass, forward and backward.

    Attributes:
        flops: floating-point operations of its matrix products, 2 for a multiply-add.
        kept: numbers that the forward pass keeps for the backward pass besides the map's input and output,
            for instance a dense update.
        transient: numbers that exist only while this map is computed, forward or backward.
        operations: operations that launch kernels, forward and backward, about half of them forward.
        moved: bytes that its elementwise operations read and write, in training in bf16 with factors in fp32.
        reused: numbers that `Method.reused_weights` keeps for all passes of an optimiser step.
    """

    flops: float
    kept: int = 0
    transient: int = 0
    operations: int = 0
    moved: float = 0.0
    reused: int = 0


class AttachReport(Frozen):
    """The model that `attach` built, without classification heads.

    Attributes:
        layer: class of the adapted layers with its module; empty if the method adapts none.
        adapted_layers: number of adapted layers.
        trainable_parameters: number of trained parameters.
        total_parameters: number of all parameters, the adapters' included.
    """

    layer: str
    adapted_layers: int
    trainable_parameters: int
    total_parameters: int

    @property
    def percent(self) -> float:
        """The paper's "Params (%)" column: trained parameters in percent of base and adapters."""
        return 100 * self.trainable_parameters / self.total_parameters


class Method(Frozen, ABC):
    """A row label of the paper. The defaults are the settings that the paper or its source publishes.

    Attributes:
        label: the row's label in the paper's tables.
        citation: the paper that proposes the method.
        mergeable: whether a trained model can be merged into a plain one of the same architecture.
        trains: whether the method trains anything.
        recomputes: whether it works with gradient checkpointing.
        loads_anew: whether `load` changes frozen weights, so that it needs a base model that nobody changed
            yet; see `reload`.
        flops_per_weight: FLOPs for each token and weight of the model's own linear maps: 2 forward, 2 for
            the gradient of the map's input, and 2 more if the weight itself is trained.
        name: the method's name in experiment files.
    """

    label: ClassVar[str]
    citation: ClassVar[str]
    mergeable: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    recomputes: ClassVar[bool] = True
    loads_anew: ClassVar[bool] = False
    flops_per_weight: ClassVar[int] = 4

    name: str

    def check_model_type(self, model_type: str) -> None:
        """Check that the method works on models with this `model_type` of transformers.

        Raises:
            MethodError: it does not.
        """

    @abstractmethod
    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        """Prepare a base model for training by this method, in place, and return the model to train.

        Args:
            model: a base model, as `repro.models.loading.load_model` returns it.
            targets: names of the modules to adapt: the ends of their paths.
            task_type: `causal_lm` or `seq_cls`.
        """

    @property
    def printed_rank(self) -> int | None:
        """The rank that a table prints beside the method; None if it has none."""
        return getattr(self, "rank", None)

    @property
    def ranks(self) -> dict[str, int]:
        """The settings that are inner sizes of products of factors, which the smaller side of W0 bounds."""
        return {} if self.printed_rank is None else {"rank": self.printed_rank}

    @property
    def evaluates(self) -> Method | None:
        """The method whose trained adapter this one only evaluates; None where it trains its own."""
        return None

    def alter(self, model: nn.Module) -> None:
        """Change what `evaluates` trained, in place, into what is evaluated.

        Raises:
            MethodError: the method evaluates what it trains.
        """
        raise MethodError(f"{self.name}: is evaluated as it was trained; there is nothing to change")

    def held_still(self, model: nn.Module, step: int, steps: int) -> Sequence[nn.Parameter]:
        """The trained parameters that optimiser step `step` (from 0) of `steps` leaves as they are."""
        return ()

    @property
    def calibration_examples(self) -> int:
        """Number of training examples that `calibrate` needs; most methods need none."""
        return 0

    def calibrate(
        self, model: nn.Module, inputs: Sequence[dict[str, Tensor]], targets: Sequence[str], task_type: str
    ) -> None:
        """Use training inputs before `attach`; each is the model's keyword arguments for one example.

        Raises:
            MethodError: the method needs none.
        """
        raise MethodError(f"{self.name}: has no calibration; call `attach` directly")

    @abstractmethod
    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        """Number of trained parameters by formula, without classification heads.

        Args:
            shapes: the targeted linear maps of all layers.
            base_parameters: number of parameters of the base model.
        """

    @abstractmethod
    def save(self, model: nn.Module, directory: Path) -> None:
        """Write the trained parameters into a folder."""

    @abstractmethod
    def saved(self, model: nn.Module) -> tuple[str, dict[str, Tensor]]:
        """The file that `save` writes, and the model's own tensors, no copies, by their names in it."""

    @abstractmethod
    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        """Load onto a base model, in place, what `save` wrote; the result can be trained further."""

    def reload(self, model: nn.Module, directory: Path) -> None:
        """Read back, in place, what `save` wrote of this model, as `load` reads it.

        Raises:
            ConfigError: it is missing or damaged, or of other settings. The model is then as it was.
        """
        self.restore(model, directory)

    def restore(self, model: nn.Module, directory: Path) -> None:
        """Replace the tensors of a built model by those that `save` wrote: these, all of them, and finite.

        They are erased before: one that is then not replaced shows in every prediction.
        """
        import torch

        file, own = self.saved(model)
        found = read_tensors(directory / file, own)
        places = {tensor.data_ptr() for tensor in own.values()}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.data_ptr() not in places:
                raise ConfigError(f"{directory / file}: {name} is trained, and has no place in it")
        with torch.no_grad():
            for tensor in own.values():
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
            for name, tensor in own.items():
                tensor.copy_(found[name])

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        """The targeted linear maps that get an adapter."""
        return list(shapes)

    def adapted_layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of a model that have this method's adapter."""
        return []

    def kernel(self, model: nn.Module) -> Literal["triton", "c", "torch"] | None:
        """The backend that computes a model's adapters on its current device; None if there is no choice."""
        return None

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """The cost that the adapter of one `adapted` map adds to a training pass of so many tokens."""
        return AdapterCost(0)

    def optimizer_numbers(self, linears: Sequence[LinearShape], trained: int) -> int:
        """Numbers that the optimiser keeps between two steps. AdamW: two moments for each trained parameter.

        Args:
            linears: the linear maps of all blocks, targeted or not.
            trained: number of trained parameters.
        """
        return 2 * trained

    def optimizer(self, model: nn.Module, settings: OptimizerSettings) -> Optimizer:
        """The optimiser of all trained parameters."""
        import torch

        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=fused(parameters),
        )

    def reused_weights(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Around the passes of an optimiser step: they share what the trained weights alone determine.

        `AdapterCost.reused` counts it. Most methods have nothing of the kind.
        """
        return nullcontext()

    def merge(self, model: nn.Module) -> nn.Module:
        """Merge the adapters into the base weights, in place, and return the plain model.

        Raises:
            MethodError: the method cannot be merged.
        """
        if not self.mergeable:
            raise MethodError(f"{self.name}: cannot be merged into the base weights; evaluate it unmerged")
        return model

    def verify(
        self, model: nn.Module, targets: Sequence[str], shapes: Sequence[LinearShape], base_parameters: int
    ) -> AttachReport:
        """Compare the model that `attach` built with the method's layer class and formula.

        Raises:
            MethodError: the class or number of the adapted layers, or the number of parameters, differs.
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


def fused(parameters: Sequence[nn.Parameter]) -> bool | None:
    """torch's `fused`: an optimiser's step in few kernels, on a GPU; None leaves the choice to torch."""
    return True if parameters and all(parameter.is_cuda for parameter in parameters) else None
