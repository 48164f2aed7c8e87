"""Timing of interleaved cases in one process, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from repro.config import Frozen
from repro.runs.measurements import Ratio
from repro.speed.budget import FEWEST, Budget

Timer = Callable[[Callable[[], object]], float]
"""Calls a function and gives the seconds that it took."""


class Times(Frozen):
    """Seconds of one case, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)


def by_clock(call: Callable[[], object]) -> float:
    """Seconds of a call by the clock, all kernels that it launched included."""
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def by_events(call: Callable[[], object]) -> float:
    """Seconds between two CUDA events around a call: from its first launch to the end of its last kernel."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _wait()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def timer(device: str) -> Timer:
    """Events on a GPU, the clock on a CPU."""
    return by_events if device == "cuda" else by_clock


def take_turns(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    budget: Budget | None = None,
    timed: Timer = by_clock,
) -> dict[str, Times]:
    """Time every case once per round, in the given order, after `warm_up` rounds that are not counted.

    Args:
        rounds: as many at most; fewer where the share of the budget ends, but `FEWEST` at least.
        budget: the time that all of it may take; None for no limit.

    Raises:
        OutOfTime: even the fewest rounds do not fit, by the last round of the warm-up.
    """
    budget = budget or Budget()
    fewest = min(FEWEST, rounds)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for done in range(1 - warm_up, rounds + 1):
        before = budget.clock()
        for name, case in cases.items():
            taken = timed(case)
            if done > 0:
                seconds[name].append(taken)
        length = budget.clock() - before
        if done == (0 if warm_up else 1):  # the first round that tells how long the others will take
            budget.check((fewest - done) * length)
        if done >= fewest and length > budget.share:
            break
    return {name: Times(seconds=tuple(values)) for name, values in seconds.items()}


def ratio(one: Times, other: Times) -> Ratio:
    """`one` / `other` in each round, so that load on the machine cancels."""
    return Ratio(rounds=tuple(a / b for a, b in zip(one.seconds, other.seconds, strict=True)))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
