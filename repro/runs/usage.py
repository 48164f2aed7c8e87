"""Time and memory of a run over all its starts, so that a resumed run does not look cheaper."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

from repro.runs.environment import peak_memory_bytes, reset_peak_memory


class Usage(L.Callback):
    """Seconds and peak memory of a run since it started here, and of earlier starts up to a checkpoint.

    Steps lost with a killed process are not in the result, and neither is their time.
    """

    def __init__(self, gpu: bool) -> None:
        """`gpu`: whether the run computes on the GPU, whose memory is then the run's."""
        self._gpu = gpu
        reset_peak_memory(gpu)
        self._started = time.perf_counter()
        self._earlier_seconds = 0.0
        self._earlier_peak: int | None = None

    @property
    def seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started

    @property
    def peak_memory_bytes(self) -> int | None:
        known = [peak for peak in (self._earlier_peak, peak_memory_bytes(self._gpu)) if peak is not None]
        return max(known, default=None)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "peak_memory_bytes": self.peak_memory_bytes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier_seconds = state_dict["seconds"]
        self._earlier_peak = state_dict["peak_memory_bytes"]
