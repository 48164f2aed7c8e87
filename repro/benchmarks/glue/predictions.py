"""What a stored prediction of this family must be; only then is it scored."""

from __future__ import annotations

from pydantic import FiniteFloat, model_validator

from repro.benchmarks.glue.records import TASKS, get_task
from repro.config import Frozen


class Logits(Frozen):
    """One logit for each class, or the score itself; one that overflowed is no number."""

    task: str
    id: str
    gold: FiniteFloat
    logits: list[float]
    part: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Logits:
        labels = get_task(self.task).labels if self.task in TASKS else len(self.logits)
        if len(self.logits) != labels:
            raise ValueError(f"{len(self.logits)} logits, {self.task} has {labels}")
        if labels > 1 and self.gold not in range(labels):
            raise ValueError(f"gold {self.gold} is none of the {labels} classes of {self.task}")
        return self
