"""Execute one run: seed, build, train, probe, evaluate, write. The same on a laptop and on a cluster."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from repro.benchmarks.base import TaskScore
from repro.config import ConfigError
from repro.models.gradient_checkpointing import checkpoint_blocks
from repro.models.shapes import base_parameters, linear_shapes
from repro.models.sharding import shard
from repro.optimizers.state_bytes import adamw_state_bytes, state_bytes
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.checkpointing import CheckpointOnStop, Checkpoints, KeepBest, KeepLatest
from repro.runs.environment import environment
from repro.runs.interruption import Interrupted
from repro.runs.link import Link
from repro.runs.processes import run_in_processes
from repro.runs.result import Evaluation, Probe, Result, Training, score_warnings
from repro.runs.starting import check_ready, continue_adapter, starting_model
from repro.runs.store import DIAGNOSTICS, PREDICTIONS, Store, write_json
from repro.runs.usage import Usage
from repro.training import collectives
from repro.training.diagnosing import Diagnosing
from repro.training.finetuning import FineTuning, FineTuningData, trained_state
from repro.training.out_of_memory import halved
from repro.training.probes import probe

Report = Callable[[str, int, int], None]
"""Told what is going on: the phase (`train` or `evaluate`), how much of it is done, and out of how much."""

Note = Callable[[str], None]
"""Told, in a line, what a person should know of a run and no result says."""

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}

# Test items that the probes look at, each five times: enough for several lengths. With eight a laptop run
# spent 4.2 s outside of training and evaluation, with four 2.7 to 3.0.
_PROBE_ITEMS = 4


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
        check_ready(spec, store)
        check_execution(spec, execution)
        with quiet_libraries(), store.scratch(spec) as scratch:
            if execution.processes == 1:
                _execute(spec, store, execution, bases, group, report, note, scratch)
            else:
                saves = spec.method.trains and execution.checkpoint_every is not None
                run_in_processes(
                    partial(_in_rank, spec.model_dump_json(), store.folder, execution, group, scratch),
                    nodes=execution.nodes,
                    devices=execution.devices,
                    gpus=_on_gpu(execution),
                    report=report,
                    keeps=lambda phase: saves and phase == "train",
                )
    result = store.result(spec)
    assert result is not None  # written, or an error was raised
    return result


def check_execution(spec: RunSpec, execution: Execution) -> None:
    """Refuse what cannot be executed as it is asked for.

    Raises:
        ConfigError: so it is.
    """
    if not execution.sharded:
        return
    shapes = linear_shapes(spec.model.architecture, spec.adapted_modules)
    weights = base_parameters(spec.model.architecture)
    if spec.method.trainable_parameters(shapes, weights) == weights:
        raise ConfigError(
            f"{spec.slug}: execution.strategy fsdp shards frozen weights, and {spec.method.name} trains all "
            "of them; set strategy: ddp, and gradient_checkpointing: true if the memory does not suffice"
        )
    if spec.model.quantization is not None:
        raise ConfigError(
            f"{spec.slug}: execution.strategy fsdp cannot shard a model of quantization "
            f"{spec.model.quantization}; set strategy: ddp, or leave the quantization out"
        )


def _in_rank(spec: str, folder: Path, execution: Execution, group: str, scratch: Path, link: Link) -> None:
    """One process's part of a run."""

    def report(*progress: Any) -> None:
        if collectives.rank() == 0:
            link.reports.put(progress)

    def note(line: str) -> None:
        print(line, file=sys.stderr)

    with quiet_libraries(), suppress(Interrupted):
        # Nothing is kept for a next run, and a model that is sharded would not fit in twice.
        bases = BaseModels(keep=False)
        _execute(
            RunSpec.model_validate_json(spec),
            Store(folder),
            execution,
            bases,
            group,
            report,
            note,
            scratch,
            link,
        )


def _on_gpu(execution: Execution) -> bool:
    return execution.accelerator != "cpu" and torch.cuda.is_available()


def _execute(
    spec: RunSpec,
    store: Store,
    execution: Execution,
    bases: BaseModels,
    group: str,
    report: Report,
    note: Note,
    scratch: Path,
    link: Link | None = None,
) -> None:
    first = collectives.rank() == 0
    usage, timer = Usage(), Timer()
    # Before anything is built: a seed that is set after the adapter does not seed it.
    L.seed_everything(spec.seed, workers=True, verbose=False)
    method, benchmark, folder = spec.method, spec.benchmark, store.directory(spec)
    targets, task = spec.adapted_modules, benchmark.model_task

    mesh = None
    if execution.sharded:
        mesh = init_device_mesh("cuda" if _on_gpu(execution) else "cpu", (execution.processes,))
    examples = execution.examples(spec.training.batch_size)
    # All processes at once would have as many whole models in main memory.
    with collectives.in_turn() if mesh else nullcontext():
        base, tokenizer = starting_model(spec, store, bases)
        revision = str(getattr(base.config, "_commit_hash", None) or base.name_or_path)
        data = benchmark.data(
            tokenizer,
            spec.training,
            seed=spec.seed,
            micro_batch_size=examples,
            evaluation_tokens=execution.evaluation_tokens,
        )
        if method.calibration_examples:
            method.calibrate(base, data.calibration_inputs(method.calibration_examples), targets, task)
        model = method.attach(base, targets, task)
        shapes = linear_shapes(spec.model.architecture, targets)
        built = method.verify(model, targets, shapes, base_parameters(spec.model.architecture))
        continue_adapter(spec, model, store, bases)
        if execution.gradient_checkpointing:
            checkpoint_blocks(model)
        if mesh:
            shard(model, mesh)
    steps = data.steps if method.trains else 0
    module = benchmark.module(model, tokenizer, method, spec.training, steps=steps, seed=spec.seed)
    module.retries = mesh is None
    # A quantised weight would be rounded once more, a sharded one is nowhere whole.
    merges = method.trains and method.mergeable and mesh is None and spec.model.quantization is None
    adapter = scratch / "adapter"

    def reload() -> nn.Module:
        with collectives.in_turn() if mesh else nullcontext():
            fresh, _ = starting_model(spec, store, bases)
            loaded = method.load(fresh, adapter, targets, task)
            if mesh:
                shard(loaded, mesh)
        return loaded

    with _wandb_logger(spec, folder, group) if execution.wandb and first else nullcontext() as logger:
        probing = _Probing(
            data,
            reload=reload if method.trains else None,
            merge=method.merge if merges else None,
        )
        progress = _Progress(report, steps, math.ceil(len(data.test_batches) / execution.processes))
        diagnosing = Diagnosing(0 if mesh else execution.diagnostics, steps)
        checkpoints = Checkpoints(store.checkpoints(spec), spec.hash)
        watching = [usage, timer, diagnosing, progress]
        every = data.validate_every
        trainer = lightning_trainer(spec, execution, folder, logger, watching, checkpoints, every, link)
        other_scores: dict[str, dict[str, TaskScore]] = {}
        if method.trains:
            # One process decides, since it may remove what cannot be used.
            found = (
                checkpoints.going_on_from(
                    trained_state(module), keeps_best=_watched(spec) is not None, note=note
                )
                if first
                else None
            )
            resume = collectives.gathered(found)[0]
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
            collectives.barrier()  # the first process has written what the others may read now
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
            if first:
                method.save(module.model, adapter)
            collectives.barrier()
        trainer.callbacks.append(probing)  # type: ignore[attr-defined]  # of the selected weights alone
        evaluation_started = time.perf_counter()
        trainer.test(module, datamodule=data, verbose=False)
        evaluation_ended = time.perf_counter()

        peak = usage.peak_memory_bytes
        if peak is not None:
            peak = round(collectives.largest(peak, module.device))
        if not first:
            return
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
            kernel=module.kernel,
            micro_batch_size=halved(examples, module.oom_backoff) if method.trains else None,
        ),
        evaluation=Evaluation(
            seconds=evaluation_ended - evaluation_started,
            probing_seconds=probing.seconds,
            items=len(module.predictions),
            merged=merges,
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
        peak_memory_bytes=peak,
        total_seconds=usage.seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model_revision=revision,
        data_fingerprints=data.fingerprints,
        environment=environment().model_copy(
            update={
                "devices": execution.processes,
                "strategy": execution.strategy if execution.processes > 1 else None,
            }
        ),
        warnings=(*score_warnings(scores), *_memory_warnings(module, execution, examples)),
    )
    if diagnosing.found is not None:
        write_json(folder / DIAGNOSTICS, diagnosing.found)
    store.write_result(spec, result)
    checkpoints.remove()


def _memory_warnings(module: FineTuning, execution: Execution, examples: int) -> Iterator[str]:
    if module.oom_backoff:
        yield (
            f"out of memory in training: passes of {halved(examples, module.oom_backoff)} examples instead "
            f"of {examples}, the optimiser batch unchanged; set execution.micro_batch_size"
        )
    if module.test_halvings:
        tokens = halved(execution.evaluation_tokens, module.test_halvings)
        yield (
            f"out of memory in evaluation: batches of {tokens} tokens in the place of "
            f"{execution.evaluation_tokens}; set execution.evaluation_tokens"
        )


def lightning_trainer(
    spec: RunSpec,
    execution: Execution,
    folder: Path,
    logger: WandbLogger | None,
    callbacks: list[L.Callback],
    checkpoints: Checkpoints,
    every: int | None,
    link: Link | None,
) -> L.Trainer:
    """A trainer of this process's device alone; what the processes tell each other is no matter of its."""
    keeping = []
    if spec.method.trains and collectives.rank() == 0:
        keeping = _checkpoint_callbacks(spec, execution, checkpoints)
    if spec.method.trains and execution.checkpoint_every is not None:
        # Behind the others, which then have seen the step that it keeps.
        callbacks = [*callbacks, CheckpointOnStop(checkpoints.latest, link)]
    return L.Trainer(
        accelerator=execution.accelerator,
        devices=[torch.cuda.current_device()] if _on_gpu(execution) else 1,
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
        self.seconds = 0.0
        self._data = data
        self._reload = reload
        self._merge = merge

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, FineTuning)
        every = [item for batch in self._data.test_batches for item in batch]
        # Batches are sorted by length, longest first. Equal strides over the shorter half take items of many
        # lengths without the longest, several times the median, which would set the width of every row.
        shorter = every[-max(_PROBE_ITEMS, len(every) // 2) :]
        items = shorter[:: max(1, len(shorter) // _PROBE_ITEMS)][:_PROBE_ITEMS]

        def reload() -> nn.Module:
            assert self._reload is not None
            return self._reload().to(module.device).eval()

        started = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            self.distances = probe(module, items, reload=reload if self._reload else None, merge=self._merge)
        self.seconds = time.perf_counter() - started


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
