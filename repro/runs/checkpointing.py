"""Checkpoints of one run: whole or not there, known by their run, and read only where nothing is damaged."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from repro.files import storage_fault, whole_file
from repro.runs.interruption import on_stop_signal, stop
from repro.runs.link import Link
from repro.training import collectives

# Raised when a checkpoint's content changes its meaning: one of another version is not gone on from.
CHECKPOINT_VERSION = 1


class Checkpoints(CheckpointIO):
    """Lightning's checkpoint plugin: `latest` holds the whole training state, `best` weights alone.

    Lightning's own plugin writes into the system's temporary folder. If that is another disk, it then copies
    the file, and a process killed meanwhile leaves half a checkpoint.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """`run` is the hash of the run, kept in every checkpoint."""
        self.folder = folder
        self.latest = folder / "latest.ckpt"
        self.best = folder / "best.ckpt"
        self._run = run
        self._read: dict[str, Any] | None = None

    def going_on_from(
        self, trained: dict[str, Tensor], *, keeps_best: bool, note: Callable[[str], None]
    ) -> Path | None:
        """The checkpoint to resume from, or None.

        One that cannot be used is removed, and `note` is told why: the run starts over.

        Args:
            trained: the run's trained tensors, by name.
            keeps_best: whether validations write `best`, so that it must be there too.
        """
        if not self.latest.exists():
            return None
        try:
            self._read = self._checked(self.latest, trained)
            if keeps_best and self._read["validation_losses"]:
                self._checked(self.best, trained)
        except Exception as error:
            if storage_fault(error) is not None:  # it may be readable again
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            note(f"starts over: its checkpoint in {self.folder} cannot be used ({why})")
            self._read = None
            self.remove()
            return None
        return self.latest

    def best_weights(self, device: torch.device) -> dict[str, Tensor] | None:
        """The weights of the best validation; None where there was none."""
        if not self.best.exists():
            return None
        weights: dict[str, Tensor] = self._checked(self.best)["state_dict"]
        return {name: tensor.to(device) for name, tensor in weights.items()}

    def remove(self) -> None:
        """Remove all checkpoints of the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        with whole_file(Path(path)) as file:
            torch.save({**checkpoint, "run": self._run, "version": CHECKPOINT_VERSION}, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        read, self._read = self._read, None  # a tuned model's is not kept twice
        return read if read is not None else self._checked(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)

    def _checked(self, path: Path, trained: dict[str, Tensor] | None = None) -> dict[str, Any]:
        """Read a checkpoint of this run; with `trained`, one that holds exactly these tensors.

        Raises:
            ValueError: it is damaged, of another run, or holds more than tensors and plain values.
            Exception: what else torch raises on a damaged file.
        """
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself compares no checksum, and trains on
        if damaged is not None:
            raise ValueError(f"{path.name}: damaged in {damaged}")
        try:
            # Tensors and plain values alone: whoever can write to the folder must not run code by it.
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise ValueError(f"{path.name}: it holds more than tensors and plain values") from error
        for key, wanted in [("run", self._run), ("version", CHECKPOINT_VERSION)]:
            if checkpoint.get(key) != wanted:
                raise ValueError(f"{path.name}: of {key} {checkpoint.get(key)}, not {wanted}")
        if trained is not None:
            found = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
            if found != {name: tensor.shape for name, tensor in trained.items()}:
                raise ValueError(f"{path.name}: it holds other tensors than the run trains")
        return checkpoint


class KeepLatest(ModelCheckpoint):
    """Keeps the whole training state after the first step that ends so many minutes after the last one kept.

    Of several processes the first alone has this callback: it tells the time, and the others, which wait for
    it in their next sum, need not know.
    """

    def __init__(self, checkpoints: Checkpoints, minutes: float) -> None:
        super().__init__(
            dirpath=checkpoints.folder,
            filename=checkpoints.latest.stem,
            every_n_train_steps=1,
            enable_version_counter=False,
        )
        self._seconds = 60 * minutes
        self._kept = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._kept = time.monotonic()

    def on_train_batch_end(self, *step: Any) -> None:
        # Lightning's own `train_time_interval` does nothing under manual optimisation.
        if time.monotonic() - self._kept >= self._seconds:
            super().on_train_batch_end(*step)
            self._kept = time.monotonic()


class KeepBest(ModelCheckpoint):
    """Keeps the weights of the best validation."""

    def __init__(self, checkpoints: Checkpoints, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=checkpoints.folder,
            filename=checkpoints.best.stem,
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The results folder may have moved since. Lightning would then forget the best score and take the
        # next validation for the best.
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class CheckpointOnStop(L.Callback):
    """On a stop signal: finish the step, checkpoint, exit. A second signal stops at once.

    It replaces Lightning's own handler of SIGTERM, which ends a training without a checkpoint.

    Where a run has several processes, they get no signal: the process that started them tells them, and all
    stop after the same step.
    """

    def __init__(self, checkpoint: Path, link: Link | None = None) -> None:
        self._checkpoint = checkpoint
        self._link = link
        self._told = False
        self._handlers = ExitStack()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._handlers.enter_context(on_stop_signal(self._note))

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
        if self._told:  # during the validation after the last step
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
