"""What a benchmark leaves: ratios beside their targets, and where they were measured."""

from __future__ import annotations

from repro.bench.timing import Ratio
from repro.config import Frozen
from repro.study.result import Environment


class Figure(Frozen):
    """One measured ratio.

    Attributes:
        name: what over what, for instance "Dual LoRA / three products".
        at: shapes and precision, for instance "T 1024, d = k = 4096, R 32, bf16".
        ratio: as measured.
        target: the bound that it is held against; None where there is none.
        higher_is_better: whether the target is a least value and not a most.
        note: what else belongs to it, for instance the two times in seconds.
    """

    name: str
    at: str
    ratio: Ratio
    target: float | None = None
    higher_is_better: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        if self.target is None:
            return None
        return self.ratio.median >= self.target if self.higher_is_better else self.ratio.median <= self.target


class Point(Frozen):
    """One layer, forward and backward, at one shape: milliseconds, and MiB kept for the backward pass."""

    name: str
    tokens: int
    rank: int
    milliseconds: float
    kept_mib: float


class Measured(Frozen):
    """A whole `repro bench`."""

    figures: tuple[Figure, ...]
    points: tuple[Point, ...]
    environment: Environment
