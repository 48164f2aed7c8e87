"""A last checkpoint for a training that is told to stop."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L

from repro.study.interruption import stop, told_to_stop


class CheckpointOnStop(L.Callback):
    """Ends a training that is told to stop behind the step it is in, which it keeps.

    Lightning has a handler for SIGTERM of its own, which ends a training without a checkpoint; this one takes
    its place while a training is on. Whoever is told twice stops at once.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._told = False
        self._handlers = ExitStack()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._handlers.enter_context(told_to_stop(self._note))

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._told:
            trainer.save_checkpoint(self._checkpoint)
            stop()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._handlers.close()
        if self._told:  # during the validation behind the last step
            stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._handlers.close()

    def _note(self) -> None:
        if self._told:
            stop()
        self._told = True
