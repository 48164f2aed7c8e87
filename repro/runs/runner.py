"""One run: build, train, select, test, record. The same on a laptop and on a cluster."""

from __future__ import annotations

import math
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers.logger import Logger

from repro.benchmarks.base import TaskScore
from repro.plans.execution import Execution, check_execution
from repro.plans.fitting import fitted
from repro.plans.spec import RunSpec
from repro.quiet import quiet_libraries
from repro.runs.allocator import keep_freed_memory
from repro.runs.bases import BaseModels
from repro.runs.build import Built, build
from repro.runs.callbacks import Probing, Progress
from repro.runs.checkpointing import Checkpoints
from repro.runs.environment import device_memory
from repro.runs.interruption import Interrupted
from repro.runs.job import Job, Note, Report, on_gpu
from repro.runs.link import Link
from repro.runs.processes import run_in_processes
from repro.runs.record import Tested, Trained, record
from repro.runs.result import Result
from repro.runs.starting import check_ready
from repro.runs.store import Store
from repro.runs.trainer import lightning_trainer, watched_metric
from repro.runs.usage import Usage
from repro.runs.wandb_log import wandb_log
from repro.training import collectives
from repro.training.diagnosing import Diagnosing
from repro.training.finetuning import FineTuning, trained_state


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
    """Train and evaluate one run and write its result. An interrupted run resumes from its last checkpoint.

    Args:
        group: the experiment that asked for the run; W&B groups runs by it.

    Raises:
        RunBusy: another process works on it.
        RunWaits: the run that it starts from is not done.
        ConfigError: it cannot be executed in this way; see `check_execution`.
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
                _run(Job(spec, store, execution, bases, group, scratch, report, note))
            else:
                saves = spec.trains and execution.checkpoint_minutes is not None
                run_in_processes(
                    partial(_in_rank, spec.model_dump_json(), store.folder, execution, group, scratch),
                    nodes=execution.nodes,
                    devices=execution.devices,
                    gpus=on_gpu(execution),
                    report=report,
                    keeps=lambda phase: saves and phase == "train",
                )
    result = store.result(spec)
    assert result is not None  # written, or an error was raised
    return result


def _in_rank(spec: str, folder: Path, execution: Execution, group: str, scratch: Path, link: Link) -> None:
    """One process's part of a run that several share."""

    def report(*progress: Any) -> None:
        if collectives.rank() == 0:
            link.reports.put(progress)

    def note(line: str) -> None:
        print(line, file=sys.stderr)

    # A process of its own shares its base model with no later run, and a sharded one would not fit twice.
    bases = BaseModels(keep=False)
    run = RunSpec.model_validate_json(spec)
    with quiet_libraries(), suppress(Interrupted):
        _run(Job(run, Store(folder), execution, bases, group, scratch, report, note, link))


def _run(job: Job) -> None:
    job = replace(job, execution=_fitted(job))
    if job.spec.trains and not on_gpu(job.execution):
        keep_freed_memory()
    usage, timer = Usage(on_gpu(job.execution)), Timer()
    # Before anything is built: a seed that is set after the adapter does not seed it.
    L.seed_everything(job.spec.seed, workers=True, verbose=False)
    built = build(job)
    logs = job.execution.wandb and job.leads
    with wandb_log(job.spec, job.folder, job.group) if logs else nullcontext() as log:
        trained = _train(job, built, usage, timer, log)
        other_scores = _select(job, built, trained)
        tested = _test(job, built, trained, other_scores)
        if tested is not None and log is not None:
            log.summarise({f"test/{name}": score.value for name, score in tested.scores.items()})
            log.summarise(
                {f"truncated/{part}": share for part, share in (built.data.truncated or {}).items()}
            )
    warnings = [f"Weights & Biases has not all of this run: {log.problem}"] if log and log.problem else []
    if tested is not None:
        record(job, built, trained, tested, warnings)


def _fitted(job: Job) -> Execution:
    """The execution with everything decided, and a number of examples that fits every device of the run."""
    execution = fitted(job.spec, job.execution, device_memory() if on_gpu(job.execution) else None)
    sizes = collectives.gathered(execution.micro_batch_size)
    return execution.model_copy(update={"micro_batch_size": min(sizes)})


def _train(job: Job, built: Built, usage: Usage, timer: Timer, logger: Logger | None) -> Trained:
    """Train the module, from its last checkpoint if there is one; nothing of a method without training."""
    spec, execution = job.spec, job.execution
    diagnosing = Diagnosing(0 if built.mesh else execution.diagnostics, built.steps)
    test_batches = math.ceil(len(built.data.test_batches) / execution.processes)
    progress = Progress(job.report, built.steps, test_batches)
    checkpoints = Checkpoints(job.store.checkpoints(spec), spec.hash)
    trainer = lightning_trainer(
        spec,
        execution,
        checkpoints,
        job.folder,
        validate_every=built.data.validate_every,
        callbacks=[usage, timer, diagnosing, progress],
        logger=logger,
        link=job.link,
    )
    if spec.trains:
        resume = None
        if job.leads:  # one process decides, since it may remove what cannot be used
            keeps_best = watched_metric(spec) is not None
            state = trained_state(built.module)
            resume = checkpoints.going_on_from(state, keeps_best=keeps_best, note=job.note)
        resume = collectives.gathered(resume)[0]
        trainer.fit(built.module, datamodule=built.data, ckpt_path=resume, weights_only=True)
        collectives.barrier()  # the first process has written what the others may read now
    optimizer = trainer.optimizers[0] if trainer.optimizers else None
    return Trained(trainer, optimizer, checkpoints, usage, timer, diagnosing)


def _select(job: Job, built: Built, trained: Trained) -> dict[str, dict[str, TaskScore]]:
    """Load the weights that the spec's rule selects and save them.

    Returns the scores under the other rule, where validation tells a best epoch by its score.
    """
    other_scores: dict[str, dict[str, TaskScore]] = {}
    if not job.spec.trains:
        return other_scores
    module, benchmark = built.module, job.spec.benchmark
    selection = select_weights(job.spec, module, trained.checkpoints)
    if selection is not None:
        chosen, (rule, weights) = selection
        if benchmark.validates_by_score:
            module.load_state_dict(weights, strict=False)
            trained.trainer.test(module, datamodule=built.data, verbose=False)
            other_scores[rule] = benchmark.score(module.predictions)
            if job.leads:
                job.store.write_predictions(job.spec, module.predictions, rule)
            module.predictions = []
        module.load_state_dict(chosen, strict=False)
    if job.leads:
        job.spec.method.save(module.model, job.adapter)
    collectives.barrier()
    return other_scores


Weights = dict[str, torch.Tensor]


def select_weights(
    spec: RunSpec, module: FineTuning, checkpoints: Checkpoints
) -> tuple[Weights, tuple[str, Weights]] | None:
    """The weights that the spec's rule selects, and the other rule with its weights; None without two."""
    best = checkpoints.best_weights(module.device) if watched_metric(spec) is not None else None
    if best is None:
        return None
    last = {name: tensor.detach().clone() for name, tensor in trained_state(module).items()}
    return (last, ("best", best)) if spec.training.selection == "last" else (best, ("last", last))


def _test(
    job: Job, built: Built, trained: Trained, other_scores: dict[str, dict[str, TaskScore]]
) -> Tested | None:
    """Probe and evaluate the selected weights. None in a process that does not lead: it records nothing."""
    probing = Probing(built.data, reload=built.reload, merge=built.merge)
    trained.trainer.callbacks.append(probing)  # type: ignore[attr-defined]  # not before: of these weights alone
    started = time.perf_counter()
    trained.trainer.test(built.module, datamodule=built.data, verbose=False)
    seconds = time.perf_counter() - started
    peak = trained.usage.peak_memory_bytes
    if peak is not None:
        peak = round(collectives.largest(peak, built.module.device))
    if not job.leads:
        return None
    job.store.write_predictions(job.spec, built.module.predictions)
    scores = job.spec.benchmark.score(built.module.predictions)
    return Tested(scores, other_scores, probing, seconds, peak)
