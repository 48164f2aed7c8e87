"""What `repro bench` leaves: ratios beside their targets, and where they were measured."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from pydantic import Field, FiniteFloat

from repro.config import Frozen
from repro.runs.json_files import DamagedFile, read_json
from repro.runs.result import Environment


class Ratio(Frozen):
    """How many times as much one case takes as another, round by round: what disturbs one disturbs both."""

    rounds: tuple[FiniteFloat, ...] = Field(min_length=1)

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def most(self) -> float:
        return max(self.rounds)


class Measurement(Frozen):
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
    target: FiniteFloat | None = None
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
    milliseconds: FiniteFloat
    kept_mib: FiniteFloat


class Measured(Frozen):
    """A whole `repro bench`."""

    figures: tuple[Measurement, ...]
    points: tuple[Point, ...]
    environment: Environment


def speed_file(results: Path) -> Path:
    """Where a results folder keeps its benchmark."""
    return results / "bench" / "bench.json"


def read_speed(results: Path) -> Measured | None:
    """The benchmark of a results folder, or None.

    Raises:
        DamagedFile: there is a file, but it cannot be understood.
    """
    return read_json(speed_file(results), Measured, "`repro bench` writes it again")


def usable_speed(results: Path) -> Measured | None:
    """The benchmark of a results folder; None if there is none, or a damaged one."""
    try:
        return read_speed(results)
    except DamagedFile:
        return None
