"""A last checkpoint for a training that is told to stop."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L

from repro.benchmarks import collectives
from repro.study.interruption import stop, told_to_stop
from repro.study.ranks import Link


class CheckpointOnStop(L.Callback):
    """Ends a training that is told to stop behind the step it is in, which it keeps.

    Lightning has a handler for SIGTERM of its own, which ends a training without a checkpoint; this one takes
    its place while a training is on. Whoever is told twice stops at once.

    Of several processes none is told by a signal but by the one that started them, and once one of them
    knows, all stop behind the same step.
    """

    def __init__(self, checkpoint: Path, link: Link | None = None) -> None:
        self._checkpoint = checkpoint
        self._link = link
        self._told = False
        self._handlers = ExitStack()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._handlers.enter_context(told_to_stop(self._note))

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._ask(trainer)
        if self._told:
            if collectives.rank() == 0:
                trainer.save_checkpoint(self._checkpoint)
            collectives.barrier()
            stop()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._handlers.close()
        self._ask(trainer)
        if self._told:  # during the validation behind the last step
            stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._handlers.close()

    def _ask(self, trainer: L.Trainer) -> None:
        if self._link is not None:
            device = trainer.strategy.root_device
            self._told = collectives.any_of(self._link.told.is_set(), device)

    def _note(self) -> None:
        if self._link is not None:
            return
        if self._told:
            stop()
        self._told = True
