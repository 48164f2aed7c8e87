"""Delta-LoRA: LoRA in which the changes of B A also move the frozen weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from repro.methods.base import AdapterCost, OptimizerSettings
from repro.methods.lora import twice_the_rank
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from repro.adapters.delta_lora import DeltaLoraConfig
    from repro.models.shapes import LinearShape


class DeltaLoRA(PeftMethod):
    """After each optimiser step t > K, W += lambda (alpha / r) (B_t A_t - B_{t-1} A_{t-1}); no dropout.

    W has neither a gradient nor an optimiser state. It moves by the difference of two products, not by the
    product of two differences as in unofficial code. `repro.adapters.delta_lora.layer` explains how the moved
    weight is stored.

    Attributes:
        rank: r, the same as in LoRA's rows on GLUE.
        alpha: the update is scaled by alpha / r; 2 r as in the LoRA baselines.
        update_ratio, start_step: lambda and K. 2 and 500 are the paper's according to citations of its
            algorithm; its tables may use others for small tasks. With fewer than 500 steps it is LoRA.
    """

    label: ClassVar[str] = "Delta-LoRA"
    citation: ClassVar[str] = (
        "Zi et al., Delta-LoRA: Fine-Tuning High-Rank Parameters with the Delta of Low-Rank Matrices "
        "(arXiv 2309.02411)"
    )

    name: Literal["delta_lora"] = "delta_lora"
    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default_factory=twice_the_rank, gt=0)
    update_ratio: float = Field(default=2.0, gt=0)
    start_step: int = Field(default=500, ge=0)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> DeltaLoraConfig:
        from repro.adapters.delta_lora import DeltaLoraConfig

        return DeltaLoraConfig(
            rank=self.rank,
            alpha=self.alpha,
            update_ratio=self.update_ratio,
            start_step=self.start_step,
            target_modules=list(targets),
            task_type=task_type,
        )

    def layer_class(self) -> type:
        from repro.adapters.delta_lora import DeltaLoraLayer

        return DeltaLoraLayer

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.rank * (shape.out_features + shape.in_features)

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """LoRA's cost plus the moved weight: the products of the current factors and of those of step K."""
        # 6 for the trained pair, 4 for each of the two pairs without a gradient of their own.
        moved = tokens * (78 * shape.in_features + 42 * shape.out_features)
        return AdapterCost(14 * tokens * self.adapter_parameters(shape), operations=41, moved=moved)

    def optimizer(self, model: nn.Module, settings: OptimizerSettings) -> Optimizer:
        optimizer = super().optimizer(model, settings)
        layers: list[Any] = self.adapted_layers(model)

        def count_step(*_: Any) -> None:
            for layer in layers:
                layer.count_step()

        optimizer.register_step_post_hook(count_step)
        return optimizer
