"""The time that `repro bench` may take, and how its parts share it.

A part has a share. It takes as many rounds as the share allows, but at least `FEWEST`, which may take more
than the share where the whole bench still has the time. What fits in neither is left out, with a line that
says so; and what an estimate did not foresee is stopped by an alarm.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

# A median and a spread need three.
FEWEST = 3


class OutOfTime(Exception):
    """A measurement does not fit in the time that is left: the next one, which is smaller, may."""


class TimeUp(BaseException):
    """The time of a whole part is over. No Exception, which code on the way might take for a failed case."""


class Budget:
    """Seconds that may still be spent, counted from its making.

    Args:
        share: for as many rounds as it allows.
        most: for the fewest rounds; None for the same as `share`.
        clock: gives seconds.
    """

    def __init__(
        self, share: float = math.inf, most: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        now = clock()
        self._share_ends = now + share
        self._ends = now + (share if most is None else most)

    @property
    def share(self) -> float:
        """Seconds that are left of the share; negative once it is overdrawn."""
        return self._share_ends - self.clock()

    @property
    def most(self) -> float:
        """Seconds that are left for the fewest rounds."""
        return self._ends - self.clock()

    def shared(self, weights: Mapping[T, float], stretch: float | None = None) -> Iterator[tuple[T, Budget]]:
        """Every name with its budget, in turn: what one leaves over is shared by those after it.

        Args:
            stretch: how many times the share the fewest rounds may take, so that a part which is too slow
                leaves something to the others; None for all that is left, where the first matters most.
        """
        rest = sum(weights.values())
        for name, weight in weights.items():
            share = max(0.0, self.share) * (weight / rest)
            most = self.most if stretch is None else min(stretch * share, self.most)
            yield name, Budget(share, most, self.clock)
            rest -= weight

    def check(self, seconds: float) -> None:
        """Raise OutOfTime if that many seconds are more than are left, or none are."""
        most = self.most
        if most <= 0:
            raise OutOfTime("no time was left")
        if seconds > most:
            raise OutOfTime(f"it would take about {seconds:,.0f} s, and has {most:,.0f} s")


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the main thread after that many seconds, as soon as it is back in Python."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    if math.isinf(seconds):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))  # 0 would be none
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
