"""Base: the pretrained model without any tuning, which the other rows are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from repro.methods.base import Method, MethodError, OptimizerSettings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from repro.models.shapes import LinearShape


class BaseModel(Method):
    """No tuning: nothing is trained, nothing is added."""

    label: ClassVar[str] = "Base"
    citation: ClassVar[str] = "the model's own"
    trains: ClassVar[bool] = False

    name: Literal["base"] = "base"

    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        return model.requires_grad_(False)

    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        return 0

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        return []

    def optimizer(self, model: nn.Module, settings: OptimizerSettings) -> Optimizer:
        raise MethodError("base: nothing is trained, so there is no optimiser; give the run 0 steps")

    def save(self, model: nn.Module, directory: Path) -> None:
        """Only makes the folder, as nothing was trained."""
        directory.mkdir(parents=True, exist_ok=True)

    def saved(self, model: nn.Module) -> tuple[str, dict[str, Tensor]]:
        raise MethodError("base: nothing was trained, so nothing is saved")

    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        return self.attach(base_model, targets, task_type)
