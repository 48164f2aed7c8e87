"""HiRA: W0 + W0 * (B A), elementwise, so that a low-rank factor gives an update of high rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.peft_method import PeftMethod, stores_transposed

if TYPE_CHECKING:
    from peft import HiraConfig
    from torch import nn

    from repro.models.shapes import LinearShape


class HiRA(PeftMethod):
    """Hadamard high-rank adaptation with the settings of the authors' commonsense command.

    peft multiplies the input by W0 and by the update W0 * (B A). The authors' code multiplies once, by
    W0 * (1 + B A), which saves 4 T d k FLOPs of 10 T d k + 6 r d k.

    Attributes:
        rank: r, the inner size of B A. There is no alpha: the authors' code scales by 1.
        dropout: the authors' command sets 0.05 but their layer never applies it, hence 0.
    """

    label: ClassVar[str] = "HiRA"
    citation: ClassVar[str] = (
        "Huang et al., HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models "
        "(ICLR 2025)"
    )
    dense_update: ClassVar[bool] = True

    name: Literal["hira"] = "hira"
    rank: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> HiraConfig:
        from peft import HiraConfig

        return HiraConfig(
            r=self.rank,
            hira_dropout=self.dropout,
            target_modules=list(targets),
            task_type=task_type,
            fan_in_fan_out=stores_transposed(model, targets),
        )

    def layer_class(self) -> type:
        from peft.tuners.hira import Linear

        return Linear

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.rank * (shape.out_features + shape.in_features)
