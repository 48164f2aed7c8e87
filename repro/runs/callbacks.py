"""What watches a run: its progress, and the probes before its test pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
from torch import nn

from repro.runs.job import Report
from repro.training.finetuning import FineTuning
from repro.training.finetuning_data import FineTuningData
from repro.training.probes import PROBE_ITEMS, Probe, probe


class Progress(L.Callback):
    """Reports how far a run is."""

    def __init__(self, report: Report, steps: int, test_batches: int) -> None:
        self._report = report
        self._steps = steps
        self._test_batches = test_batches

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._report("train", trainer.global_step, self._steps)

    def on_test_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._report("evaluate", batch_idx + 1, self._test_batches)


class Probing(L.Callback):
    """Runs the probes as testing starts: on the trainer's device, in its precision, in evaluation mode.

    Attributes:
        found: the probes, once they have run.
        seconds: that they took.
    """

    def __init__(
        self,
        data: FineTuningData,
        *,
        reload: Callable[[nn.Module], nn.Module] | None,
        merge: Callable[[nn.Module], nn.Module] | None,
    ) -> None:
        self.found: tuple[Probe, ...] = ()
        self.seconds = 0.0
        self._data = data
        self._reload = reload
        self._merge = merge

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, FineTuning)
        every = [item for batch in self._data.test_batches for item in batch]
        # Batches are sorted by length, longest first. Equal strides over the shorter half take items of many
        # lengths without the longest, several times the median, which would set the width of every row.
        shorter = every[-max(PROBE_ITEMS, len(every) // 2) :]
        items = shorter[:: max(1, len(shorter) // PROBE_ITEMS)][:PROBE_ITEMS]
        started = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            self.found = probe(module, items, reload=self._reload, merge=self._merge)
        self.seconds = time.perf_counter() - started
