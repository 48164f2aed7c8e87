"""Times of cases that take turns in one process, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from repro.config import Frozen
from repro.runs.measurements import Ratio


class Times(Frozen):
    """Seconds of one case, a value a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)


def take_turns(
    cases: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, Times]:
    """Time every case once a round, in the given order, after `warm_up` rounds that do not count.

    On a GPU a case ends when its kernels have.
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
    """`one` over `other`, round by round: what disturbed a round disturbed both."""
    return Ratio(rounds=tuple(a / b for a, b in zip(one.seconds, other.seconds, strict=True)))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
