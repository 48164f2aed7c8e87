"""Under which conditions a part of the bench is measured, and what it gives."""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from repro.runs.measurements import Measurement, Point
from repro.speed.budget import Budget

Found: TypeAlias = Measurement | Point | str
"""What a part yields: ratios, points of the picture, and a line about what was not measured and why."""


@dataclass(frozen=True)
class Conditions:
    """How a part is measured.

    Attributes:
        small: tiny sizes that take seconds, to test the bench itself.
        device: `cpu` or `cuda`.
        budget: the time that it may take.
    """

    small: bool = False
    device: str = "cpu"
    budget: Budget = field(default_factory=Budget)


def failed(what: str, error: Exception) -> str:
    """One line about a case that raised: it stops none of the others."""
    reason = str(error).strip().splitlines()
    return f"{what}: failed: {type(error).__name__}" + (f": {reason[0][:200]}" if reason else "")


def release() -> None:
    """Give the memory of what is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # after a fault of the GPU, which has been named
            torch.cuda.empty_cache()
