"""A callback for transformers' Trainer that counts the steps of the warm-up ramp."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .warmup import count_step


class RampCallback(TrainerCallback):
    """Counts each optimiser step once, whether or not torch's own hooks see it.

    Needed with optimisers that step copies of the parameters, such as DeepSpeed's; harmless with others.
    """

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Accelerate says so of a step that its gradient scaler left out.
        if not getattr(kwargs.get("optimizer"), "step_was_skipped", False):
            count_step(kwargs["model"])
