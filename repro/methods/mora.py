"""MoRA: an update of high rank from one trained square matrix between two fixed operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import AdapterCost
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import nn

    from repro.adapters.mora import MoraConfig
    from repro.models.shapes import LinearShape


class MoRA(PeftMethod):
    """MoRA with the defaults of the authors' training script; `repro.adapters.mora` has the formula.

    Attributes:
        rank: r of the LoRA that trains as many parameters; M is square with sqrt((d + k) r) rows.
        compression: `rotation` (type 6 of the authors' code), which they advise for small ranks, or `sharing`
            (type 1), for large ones.
        dropout: on the input of the adapter, in training.
    """

    label: ClassVar[str] = "MoRA"
    citation: ClassVar[str] = (
        "Jiang et al., MoRA: High-Rank Updating for Parameter-Efficient Fine-Tuning (arXiv 2405.12130)"
    )

    name: Literal["mora"] = "mora"
    rank: int = Field(default=8, gt=0)
    compression: Literal["rotation", "sharing"] = "rotation"
    dropout: float = Field(default=0.05, ge=0, lt=1)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> MoraConfig:
        from repro.adapters.mora import MoraConfig

        return MoraConfig(
            **self.model_dump(exclude={"name"}), target_modules=list(targets), task_type=task_type
        )

    def layer_class(self) -> type:
        from repro.adapters.mora import MoraLayer

        return MoraLayer

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self._side(shape) ** 2

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """M is applied to the sum of the input's groups, or to each of them."""
        side = self._side(shape)
        groups = math.ceil(shape.in_features / side) if self.compression == "rotation" else 1
        moved = tokens * (98 * shape.in_features + 50 * shape.out_features)
        return AdapterCost(6 * tokens * groups * side**2, operations=47, moved=moved)

    def _side(self, shape: LinearShape) -> int:
        side = round(((shape.out_features + shape.in_features) * self.rank) ** 0.5)
        if self.compression == "rotation":
            side -= side % 2  # a rotation turns pairs of coordinates
        return side
