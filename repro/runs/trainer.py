"""Lightning's trainer as a run uses it, and its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment

from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.runs.checkpointing import CheckpointOnStop, Checkpoints, KeepBest, KeepLatest
from repro.runs.job import on_gpu
from repro.runs.link import Link
from repro.training import collectives

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


def lightning_trainer(
    spec: RunSpec,
    execution: Execution,
    checkpoints: Checkpoints | None,
    folder: Path,
    *,
    validate_every: int | None = None,
    callbacks: Sequence[L.Callback] = (),
    logger: Logger | None = None,
    link: Link | None = None,
) -> L.Trainer:
    """A single-device trainer; `collectives` synchronises the ranks.

    Args:
        checkpoints: None for a trainer that only tests.
        folder: Lightning's default for whatever it writes.
        validate_every: optimiser steps between two validations; None validates never.
        link: to the process that started this one, where a run has several.
    """
    keeping: list[L.Callback] = []
    if spec.trains and checkpoints is not None:
        if collectives.rank() == 0:
            keeping = [*checkpoint_callbacks(spec, execution, checkpoints)]
        if execution.checkpoint_minutes is not None:
            # After the other callbacks, which then have seen the step that it keeps.
            callbacks = [*callbacks, CheckpointOnStop(checkpoints.latest, link)]
    return L.Trainer(
        accelerator=execution.accelerator,
        devices=[torch.cuda.current_device()] if on_gpu(execution) else 1,
        # Inside a SLURM job Lightning would otherwise answer SLURM's signals and requeue the job itself.
        plugins=[LightningEnvironment(), *([checkpoints] if checkpoints else [])],
        precision=_PRECISION[spec.training.precision],  # type: ignore[arg-type]
        max_epochs=1,  # the schedule of batches already holds every epoch
        logger=logger or False,
        callbacks=[*callbacks, *keeping],
        enable_checkpointing=bool(keeping),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate_every else 0,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None if validate_every else 1,
        log_every_n_steps=1,
        default_root_dir=folder,
        # Merging writes weights, and tensors made in inference mode could not be used elsewhere.
        inference_mode=False,
    )


def checkpoint_callbacks(
    spec: RunSpec, execution: Execution, checkpoints: Checkpoints
) -> list[KeepLatest | KeepBest]:
    """What keeps the latest state to resume from, and the best weights where a validation tells them."""
    callbacks: list[KeepLatest | KeepBest] = []
    if execution.checkpoint_minutes is not None:
        callbacks.append(KeepLatest(checkpoints, execution.checkpoint_minutes))
    watched = watched_metric(spec)
    if watched is not None:
        callbacks.append(KeepBest(checkpoints, *watched))
    return callbacks


def watched_metric(spec: RunSpec) -> tuple[str, Literal["min", "max"]] | None:
    """What tells the best weights. A score is watched even where the last weights are reported."""
    if spec.training.selection == "best_validation_loss":
        return "validation/loss", "min"
    if spec.training.validate_every and spec.benchmark.validates_by_score:
        return "validation/score", "max"
    return None
