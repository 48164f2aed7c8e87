"""What `repro bench` leaves: ratios beside their targets, and where they were measured."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from repro.config import Frozen
from repro.runs.json_files import DamagedFile, read_json
from repro.runs.result import Environment


class Ratio(Frozen):
    """How many times as much one case takes as another, round by round: what disturbs one disturbs both."""

    # A bench has 350 rounds at most. What tests them takes memory with the square of their number.
    rounds: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] = Field(min_length=1, max_length=1000)

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
    """One layer, forward and backward, at one shape: milliseconds, and MiB kept for the backward pass.

    Attributes:
        name: the method.
        d, k: the layer's outputs and inputs.
        captured: whether the pass was one CUDA graph, without Python and launches.
    """

    name: str
    tokens: int
    rank: int
    milliseconds: FiniteFloat
    kept_mib: FiniteFloat
    d: int = 2048  # as in the first benches, which did not say
    k: int = 2048
    precision: str = "fp32"
    captured: bool = False


class Card(Frozen):
    """The GPU that a benchmark ran on; None for what the driver does not tell.

    Attributes:
        driver: its version.
        clock_mhz, most_clock_mhz: of the multiprocessors, right after the work, and at most.
        memory_clock_mhz: of the memory.
        power_limit_watts: what the driver lets the card draw.
    """

    name: str
    memory_gib: FiniteFloat
    driver: str | None = None
    clock_mhz: int | None = None
    most_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_watts: FiniteFloat | None = None

    def __str__(self) -> str:
        known = [f"{self.memory_gib:.0f} GiB"]
        known += [f"driver {self.driver}"] if self.driver else []
        if self.clock_mhz is not None:
            most = "" if self.most_clock_mhz is None else f" of at most {self.most_clock_mhz}"
            known.append(f"clock {self.clock_mhz}{most} MHz after the work")
        known += [] if self.memory_clock_mhz is None else [f"memory at {self.memory_clock_mhz} MHz"]
        known += [] if self.power_limit_watts is None else [f"power limit {self.power_limit_watts:g} W"]
        return f"{self.name} ({', '.join(known)})"


# Raised when a field changes its meaning: a reader refuses every other version.
BENCH_VERSION = 1

Device = Literal["cpu", "gpu"]


class Measured(Frozen):
    """A whole `repro bench`.

    Attributes:
        card: the GPU; None if it was measured on a CPU.
        left_out: a line for each case that was not measured, and why.
    """

    version: Literal[1] = BENCH_VERSION  # type: ignore[assignment]
    figures: tuple[Measurement, ...]
    points: tuple[Point, ...]
    environment: Environment
    card: Card | None = None
    left_out: tuple[str, ...] = ()

    @property
    def device(self) -> Device:
        return "cpu" if self.card is None else "gpu"

    @property
    def hardware(self) -> str:
        """The device in words: a reader tells by it what a ratio holds for."""
        return self.environment.hardware if self.card is None else f"one {self.card.name}"


def speed_file(results: Path, measured: Measured) -> Path:
    """Where a results folder keeps the benchmark of each device: `bench/2-threads-of-amd-epyc.json`.

    Ratios of one device need not be those of another, so that both stay.
    """
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", "", measured.hardware.lower()))
    return results / "bench" / f"{'-'.join(words)[:80] or 'unknown'}.json"


def speed_files(results: Path) -> list[Path]:
    """The benchmarks of a results folder."""
    return sorted((results / "bench").glob("*.json"))


def read_speed(path: Path) -> Measured:
    """A benchmark.

    Raises:
        DamagedFile: it cannot be understood.
    """
    remedy = "`repro bench` writes it again"
    measured = read_json(path, Measured, remedy)
    if measured is None:
        raise DamagedFile(f"{path}: there is no such file; {remedy}")
    return measured


def usable_speeds(results: Path) -> list[Measured]:
    """The benchmarks of a results folder that can be used: of GPUs first, then by their number of rounds."""
    found: list[Measured] = []
    for path in speed_files(results):
        with suppress(DamagedFile):
            found.append(read_speed(path))
    return sorted(
        found,
        key=lambda one: (one.device == "gpu", sum(len(f.ratio.rounds) for f in one.figures)),
        reverse=True,
    )
