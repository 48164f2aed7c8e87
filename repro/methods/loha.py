"""LoHa: W0 + (alpha / r) (B1 A1) * (B2 A2), the elementwise product of two low-rank updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import AdapterCost
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from peft import LoHaConfig
    from torch import nn

    from repro.models.shapes import LinearShape


class LoHa(PeftMethod):
    """Low-rank Hadamard product with peft's default settings. Like Dual LoRA it builds dW from two pairs.

    Attributes:
        rank: r, the inner size of both pairs; dW has a rank of up to r^2. Trains as much as LoRA at rank 2 r.
        alpha: the update is scaled by alpha / r. The default is r, as FedPara does not scale its product.
    """

    label: ClassVar[str] = "LoHa"
    citation: ClassVar[str] = (
        "Hyeon-Woo et al., FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning "
        "(ICLR 2022)"
    )
    dense_update: ClassVar[bool] = True

    name: Literal["loha"] = "loha"
    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default_factory=lambda settings: float(settings.get("rank", 0)), gt=0)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> LoHaConfig:
        from peft import LoHaConfig

        return LoHaConfig(
            r=self.rank,
            alpha=self.alpha,  # type: ignore[arg-type]  # peft takes any number
            target_modules=list(targets),
            task_type=task_type,
        )

    def layer_class(self) -> type:
        from peft.tuners.loha import Linear

        return Linear

    def adapter_parameters(self, shape: LinearShape) -> int:
        return 2 * self.rank * (shape.out_features + shape.in_features)

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """peft's backward pass holds up to four matrices of the weight's size beside the kept update."""
        cost = super().adapter_cost(shape, tokens)
        return cost._replace(transient=4 * shape.parameters, operations=33, moved=27 * shape.parameters)
