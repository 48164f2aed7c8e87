"""Being told to stop: SIGTERM, and SIGUSR1, by which SLURM announces the end of a time limit."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """The process was told to stop. No `Exception`: a run that is stopped has not failed."""


@contextmanager
def on_stop_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM or SIGUSR1, in the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        act()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop() -> None:
    """End the process, unless a caller catches `Interrupted`.

    Raises:
        Interrupted: always.
    """
    raise Interrupted("told to stop")
