"""DoRA: trains a weight's magnitude, one number per output row, and its direction, by LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from repro.methods.base import AdapterCost
from repro.methods.lora import LoRA

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

    from repro.models.shapes import LinearShape


class DoRA(LoRA):
    """Weight-decomposed LoRA with the settings of the DoRA commonsense scripts, the same as LoRA's.

    The backward pass treats the norm in the denominator as a constant, as in the paper's cheaper variant
    (section 4.3). With dropout, peft computes the base product twice in training.
    """

    label: ClassVar[str] = "DoRA"
    citation: ClassVar[str] = "Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation (ICML 2024)"

    name: Literal["dora"] = "dora"  # type: ignore[assignment]

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(**self._lora_settings(targets, task_type, model), use_dora=True)

    def adapter_parameters(self, shape: LinearShape) -> int:
        return super().adapter_parameters(shape) + shape.out_features

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """LoRA's cost plus B A for the norm: peft passes an identity matrix through both factors."""
        d, k = shape.out_features, shape.in_features
        flops = (6 * tokens + 2 * k) * self.rank * (d + k)
        # Both outputs are scaled, by row, and the norm reads and writes the weight's size several times.
        operations, moved = 46, tokens * (30 * k + 134 * d) + 37 * d * k + 10 * k * k
        if self.dropout:
            flops += 4 * tokens * d * k  # the base product again, of the input after dropout
            operations, moved = operations + 9, moved + 60 * tokens * k
        # Kept: both products, whose sum is scaled. Transient: the identity, B A, s B A and W0 + s B A.
        kept, transient = round(2 * tokens * d), k * k + 3 * d * k
        return AdapterCost(flops, kept, transient, operations, moved)
