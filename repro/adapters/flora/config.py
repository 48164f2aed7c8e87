"""Settings of the FLoRA tuner."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftType

from repro.adapters.additive import AdditiveConfig


@dataclass
class FloraConfig(AdditiveConfig):
    """dW = (alpha / r) B E A, the two-dimensional case of arXiv 2405.14739, with E zero at the start.

    The defaults are those of the authors' commonsense script.

    Args:
        rank: r; A is (r, k), E is (r, r) and B is (d, r).
        alpha: the update is scaled by alpha / r.
        init_std: A and B start as N(0, init_std^2).
    """

    rank: int = 8
    alpha: float = 16.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("FLORA")
        if self.rank < 1:
            raise ValueError(f"FLoRA: rank must be at least 1 (got {self.rank})")
