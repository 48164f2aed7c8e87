"""Settings of the Delta-LoRA tuner."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig, PeftType


@dataclass
class DeltaLoraConfig(PeftConfig):
    """Settings of Delta-LoRA. There is no dropout: the method leaves it out.

    Args:
        r: rank of B A.
        alpha: B A is scaled by alpha / r.
        update_ratio: lambda, by how much more the base weight moves than B A does.
        start_step: K, optimiser steps before the base weight starts to move.
        target_modules: names of the linear layers to adapt, by the end of their path, or a regular
            expression.
        modules_to_save: other modules that are trained and saved, such as a classification head.
    """

    r: int = field(default=8, metadata={"help": "rank"})
    alpha: float = field(default=16.0, metadata={"help": "the product is scaled by alpha / r"})
    update_ratio: float = field(default=2.0, metadata={"help": "lambda of the base weight's update"})
    start_step: int = field(default=500, metadata={"help": "optimiser steps before the base weight moves"})
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "linear layers to adapt"}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "other modules that are trained and saved"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.DELTA_LORA  # type: ignore[attr-defined]
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.r < 1:
            raise ValueError(f"r must be at least 1 (got {self.r})")
        if self.start_step < 0:
            raise ValueError(f"start_step must be at least 0 (got {self.start_step})")
