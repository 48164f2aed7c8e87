"""Execute one run: seed, build, train, probe, evaluate, write. The same on a laptop and on a cluster."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn

from repro.benchmarks.base import TaskScore
from repro.benchmarks.diagnosing import Diagnosing
from repro.benchmarks.finetuning import FineTuning, FineTuningData, trained_state
from repro.benchmarks.probes import probe
from repro.models.shapes import base_parameters, linear_shapes
from repro.optimizers.memory import adamw_state_bytes, state_bytes
from repro.quiet import quiet_libraries
from repro.study.bases import BaseModels
from repro.study.checkpointing import CheckpointOnStop, Checkpoints, KeepBest, KeepLatest
from repro.study.environment import environment
from repro.study.execution import Execution
from repro.study.result import Evaluation, Probe, Result, Training, score_warnings
from repro.study.spec import RunSpec
from repro.study.starting import continue_adapter, starting_model
from repro.study.store import DIAGNOSTICS, PREDICTIONS, Store, write_json
from repro.study.usage import Usage

Report = Callable[[str, int, int], None]
"""Told what is going on: the phase (`train` or `evaluate`), how much of it is done, and out of how much."""

Note = Callable[[str], None]
"""Told, in a line, what a person should know of a run and no result says."""

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}

# Test items that the probes look at: enough for several lengths, few beside the 512 of a laptop run.
_PROBE_ITEMS = 8


def execute(
    spec: RunSpec,
    *,
    store: Store,
    execution: Execution,
    bases: BaseModels,
    group: str,
    report: Report = lambda phase, done, total: None,
    note: Note = lambda line: None,
) -> Result:
    """Train and evaluate one run and write its result. An interrupted one goes on from its last checkpoint.

    Args:
        group: the experiment that asked for the run, W&B's name for runs that belong together.

    Raises:
        RunBusy: another process works on it.
        RunWaits: the run that it starts from is not done.
    """
    with store.claimed(spec):
        done = store.result(spec)
        store.sweep(spec)
        if done is not None:
            return done
        with quiet_libraries(), store.scratch(spec) as scratch:
            return _execute(spec, store, execution, bases, group, report, note, scratch)


def _execute(
    spec: RunSpec,
    store: Store,
    execution: Execution,
    bases: BaseModels,
    group: str,
    report: Report,
    note: Note,
    scratch: Path,
) -> Result:
    usage, timer = Usage(), Timer()
    # Before anything is built: a seed that is set after the adapter does not seed it.
    L.seed_everything(spec.seed, workers=True, verbose=False)
    method, benchmark, folder = spec.method, spec.benchmark, store.directory(spec)
    targets, task = spec.adapted_modules, benchmark.model_task

    base, tokenizer = starting_model(spec, store, bases)
    revision = str(getattr(base.config, "_commit_hash", None) or base.name_or_path)
    data = benchmark.data(
        tokenizer,
        spec.training,
        seed=spec.seed,
        micro_batch_size=execution.micro_batch_size,
        evaluation_tokens=execution.evaluation_tokens,
    )
    if method.calibration_examples:
        method.calibrate(base, data.calibration_inputs(method.calibration_examples), targets, task)
    model = method.attach(base, targets, task)
    shapes = linear_shapes(spec.model.architecture, targets)
    built = method.verify(model, targets, shapes, base_parameters(spec.model.architecture))
    continue_adapter(spec, model, store, bases)
    steps = data.steps if method.trains else 0
    module = benchmark.module(model, tokenizer, method, spec.training, steps=steps, seed=spec.seed)
    adapter = scratch / "adapter"

    def reload() -> nn.Module:
        fresh, _ = starting_model(spec, store, bases)
        return method.load(fresh, adapter, targets, task)

    with _wandb_logger(spec, folder, group) if execution.wandb else nullcontext() as logger:
        probing = _Probing(
            data,
            reload=reload if method.trains else None,
            merge=method.merge if method.trains and method.mergeable else None,
        )
        progress = _Progress(report, steps, len(data.test_batches))
        diagnosing = Diagnosing(execution.diagnostics, steps)
        checkpoints = Checkpoints(store.checkpoints(spec), spec.hash)
        watching = [usage, timer, diagnosing, progress]
        trainer = _trainer(spec, execution, folder, logger, watching, checkpoints, data.validate_every)
        other_scores: dict[str, dict[str, TaskScore]] = {}
        if method.trains:
            resume = checkpoints.going_on_from(
                trained_state(module), keeps_best=_watched(spec) is not None, note=note
            )
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        if method.trains:
            selection = _select(spec, module, checkpoints)
            if selection is not None:
                chosen, (rule, weights) = selection
                if benchmark.validates_by_score:
                    module.load_state_dict(weights, strict=False)
                    trainer.test(module, datamodule=data, verbose=False)
                    other_scores[rule] = benchmark.score(module.predictions)
                    module.predictions = []
                module.load_state_dict(chosen, strict=False)
            method.save(module.model, adapter)
        trainer.callbacks.append(probing)  # type: ignore[attr-defined]  # of the selected weights alone
        evaluation_started = time.perf_counter()
        trainer.test(module, datamodule=data, verbose=False)
        evaluation_ended = time.perf_counter()

        store.write_predictions(spec, module.predictions)
        scores = benchmark.score(module.predictions)
        if logger is not None:
            logger.experiment.summary.update({f"test/{name}": score.value for name, score in scores.items()})

    adapter_bytes = sum(file.stat().st_size for file in adapter.rglob("*") if file.is_file())
    if 0 < adapter_bytes <= execution.keep_adapter_mb * 2**20:
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of a run whose result was deleted
        adapter.rename(folder / "adapter")
    result = Result(
        hash=spec.hash,
        slug=spec.slug,
        spec=spec.model_dump(mode="json"),
        scores=scores,
        other_scores=other_scores,
        training=Training(
            steps=len(module.losses),
            tokens=data.training_tokens if method.trains else 0,
            seconds=timer.time_elapsed(),
            losses=tuple(module.losses),
            validation_losses=tuple(module.validation_losses),
            validation_scores=tuple(module.validation_scores),
            optimizer_state_bytes=state_bytes(optimizer) if optimizer else None,
            adamw_state_bytes=adamw_state_bytes(optimizer) if optimizer else None,
        ),
        evaluation=Evaluation(
            seconds=evaluation_ended - evaluation_started,
            items=len(module.predictions),
            merged=method.trains and method.mergeable,
            scorer_version=benchmark.scorer_version,
            predictions=PREDICTIONS,
        ),
        probes=tuple(
            Probe(name=name, distance=distance, tolerance=module.probe_tolerance)
            for name, distance in probing.distances.items()
        ),
        trainable_parameters=built.trainable_parameters,
        adapted_layers={built.layer: built.adapted_layers} if built.layer else {},
        adapter_bytes=adapter_bytes,
        peak_memory_bytes=usage.peak_memory_bytes,
        total_seconds=usage.seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model_revision=revision,
        data_fingerprints=data.fingerprints,
        environment=environment(),
        warnings=tuple(score_warnings(scores)),
    )
    if diagnosing.found is not None:
        write_json(folder / DIAGNOSTICS, diagnosing.found)
    store.write_result(spec, result)
    checkpoints.remove()
    return result


def _trainer(
    spec: RunSpec,
    execution: Execution,
    folder: Path,
    logger: WandbLogger | None,
    callbacks: list[L.Callback],
    checkpoints: Checkpoints,
    every: int | None,
) -> L.Trainer:
    keeping = _checkpoint_callbacks(spec, execution, checkpoints) if spec.method.trains else []
    if spec.method.trains and execution.checkpoint_every is not None:
        # Behind the others, which then have seen the step that it keeps.
        callbacks = [*callbacks, CheckpointOnStop(checkpoints.latest)]
    return L.Trainer(
        accelerator=execution.accelerator,
        devices=1,
        # Inside a SLURM job Lightning would otherwise answer SLURM's signals and requeue the job itself.
        plugins=[LightningEnvironment(), checkpoints],
        precision=_PRECISION[spec.training.precision],  # type: ignore[arg-type]
        max_epochs=1,  # the schedule of batches already holds every epoch
        logger=logger or False,
        callbacks=[*callbacks, *keeping],
        enable_checkpointing=bool(keeping),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if every else 0,
        val_check_interval=every,
        check_val_every_n_epoch=None if every else 1,
        log_every_n_steps=1,
        default_root_dir=folder,
        # Merging writes weights, and tensors made in inference mode could not be used elsewhere.
        inference_mode=False,
    )


class _Progress(L.Callback):
    """Passes on how far a run is."""

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


class _Probing(L.Callback):
    """Runs the probes as testing starts: on the trainer's device, in its precision, in evaluation mode."""

    def __init__(
        self,
        data: FineTuningData,
        *,
        reload: Callable[[], nn.Module] | None,
        merge: Callable[[nn.Module], nn.Module] | None,
    ) -> None:
        self.distances: dict[str, float] = {}
        self._data = data
        self._reload = reload
        self._merge = merge

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, FineTuning)
        every = [item for batch in self._data.test_batches for item in batch]
        # Batches are sorted by length, so equal strides take short and long items.
        items = every[:: max(1, len(every) // _PROBE_ITEMS)][:_PROBE_ITEMS]

        def reload() -> nn.Module:
            assert self._reload is not None
            return self._reload().to(module.device).eval()

        with trainer.precision_plugin.forward_context():
            self.distances = probe(module, items, reload=reload if self._reload else None, merge=self._merge)


def _checkpoint_callbacks(
    spec: RunSpec, execution: Execution, checkpoints: Checkpoints
) -> list[KeepLatest | KeepBest]:
    callbacks: list[KeepLatest | KeepBest] = []
    if execution.checkpoint_every is not None:
        callbacks.append(KeepLatest(checkpoints, execution.checkpoint_every))
    watched = _watched(spec)
    if watched is not None:
        callbacks.append(KeepBest(checkpoints, *watched))
    return callbacks


def _watched(spec: RunSpec) -> tuple[str, Literal["min", "max"]] | None:
    """What the best weights are known by. A score is watched even where the last weights are reported."""
    if spec.training.selection == "best_validation_loss":
        return "validation/loss", "min"
    if spec.training.validate_every and spec.benchmark.validates_by_score:
        return "validation/score", "max"
    return None


Weights = dict[str, torch.Tensor]


def _select(
    spec: RunSpec, module: FineTuning, checkpoints: Checkpoints
) -> tuple[Weights, tuple[str, Weights]] | None:
    """The weights that the spec's rule selects, and the other rule with its weights; None without two."""
    best = checkpoints.best_weights(module.device) if _watched(spec) is not None else None
    if best is None:
        return None
    last = {name: tensor.detach().clone() for name, tensor in trained_state(module).items()}
    return (last, ("best", best)) if spec.training.selection == "last" else (best, ("last", last))


@contextmanager
def _wandb_logger(spec: RunSpec, folder: Path, group: str) -> Iterator[WandbLogger]:
    """Lightning's logger around a W&B run, offline unless `WANDB_MODE` says otherwise.

    An error inside closes the W&B run as failed.
    """
    import wandb

    with wandb.init(
        project="dual-lora-repro",
        group=group,
        name=spec.slug,
        # The run's own hash, so that a resumed run continues its W&B run and starts no second one.
        id=spec.hash,
        resume="allow",
        dir=folder,
        config=spec.model_dump(mode="json"),
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    ) as run:
        yield WandbLogger(experiment=run)
