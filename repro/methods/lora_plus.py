"""LoRA+: LoRA whose B learns faster than its A."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import OptimizerSettings, fused
from repro.methods.lora import LoRA

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class LoRAPlus(LoRA):
    """LoRA's network; AdamW with one learning rate for A and a multiple of it for B.

    Attributes:
        learning_rate_ratio: learning rate of B over that of A. The Dual LoRA paper names none, and the LoRA+
            authors give no universal one; 16 is the value in common use. The settings' learning rate is A's.
    """

    label: ClassVar[str] = "LoRA+"
    citation: ClassVar[str] = "Hayou et al., LoRA+: Efficient Low Rank Adaptation of Large Models (ICML 2024)"

    name: Literal["lora_plus"] = "lora_plus"  # type: ignore[assignment]
    learning_rate_ratio: float = Field(default=16.0, ge=1)

    def optimizer(self, model: nn.Module, settings: OptimizerSettings) -> Optimizer:
        from peft.optimizers import create_loraplus_optimizer
        from torch.optim import AdamW

        return create_loraplus_optimizer(
            model,  # type: ignore[arg-type]
            AdamW,
            lr=settings.learning_rate,
            loraplus_lr_ratio=self.learning_rate_ratio,
            loraplus_weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            fused=fused([parameter for parameter in model.parameters() if parameter.requires_grad]),
        )
