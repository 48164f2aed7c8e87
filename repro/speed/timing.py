"""Timing of interleaved cases in one process, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from repro.config import Frozen
from repro.runs.measurements import Ratio


class Times(Frozen):
    """Seconds of one case, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)


def take_turns(
    cases: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, Times]:
    """Time every case once per round, in the given order, after `warm_up` rounds that are not counted.

    On a GPU the time includes all kernels of the case.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warm_up + rounds):
        for name, case in cases.items():
            _wait()
            start = time.perf_counter()
            case()
            _wait()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Times(seconds=tuple(values)) for name, values in seconds.items()}


def ratio(one: Times, other: Times) -> Ratio:
    """`one` / `other` in each round, so that load on the machine cancels."""
    return Ratio(rounds=tuple(a / b for a, b in zip(one.seconds, other.seconds, strict=True)))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
