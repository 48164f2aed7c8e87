"""Settings of the Delta-LoRA tuner."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftType

from repro.adapters.additive import AdditiveConfig


@dataclass
class DeltaLoraConfig(AdditiveConfig):
    """Settings of Delta-LoRA, which has no dropout: a moved weight has no input to drop.

    Args:
        rank: r, of B A.
        alpha: B A is scaled by alpha / r.
        update_ratio: lambda: the base weight moves by lambda times the change of B A.
        start_step: K, optimiser steps before the base weight starts to move.
    """

    rank: int = 8
    alpha: float = 16.0
    update_ratio: float = 2.0
    start_step: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("DELTA_LORA")
        if self.rank < 1:
            raise ValueError(f"Delta-LoRA: rank must be at least 1 (got {self.rank})")
        if self.start_step < 0:
            raise ValueError(f"Delta-LoRA: start_step must be at least 0 (got {self.start_step})")
        if self.dropout != 0:
            raise ValueError(f"Delta-LoRA: dropout must be 0, as the method has none (got {self.dropout})")
