"""The last part of a run: what it measured, as a result file whose presence means done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import lightning as L
from lightning.pytorch.callbacks import Timer
from torch.optim import Optimizer

from repro.benchmarks.base import TaskScore
from repro.files import follow_umask
from repro.optimizers.state_bytes import adamw_state_bytes, state_bytes
from repro.runs.build import Built
from repro.runs.callbacks import Probing
from repro.runs.checkpointing import Checkpoints
from repro.runs.environment import environment
from repro.runs.job import Job, on_gpu
from repro.runs.json_files import write_json
from repro.runs.result import Evaluation, Result, Training, score_warnings
from repro.runs.store import DIAGNOSTICS, PREDICTIONS
from repro.runs.usage import Usage
from repro.training.diagnosing import Diagnosing
from repro.training.out_of_memory import halved


@dataclass(frozen=True)
class Trained:
    """A training that is over, or that the method does without, and what watched it.

    Attributes:
        optimizer: as the training left it; None without one.
    """

    trainer: L.Trainer
    optimizer: Optimizer | None
    checkpoints: Checkpoints
    usage: Usage
    timer: Timer
    diagnosing: Diagnosing


@dataclass(frozen=True)
class Tested:
    """A test pass over the selected weights.

    Attributes:
        other_scores: of the weights that were not selected, by their rule.
        seconds: of the pass, its probes included.
        peak: memory of the whole run in bytes, of the device that needed most; None where it is not known.
    """

    scores: dict[str, TaskScore]
    other_scores: dict[str, dict[str, TaskScore]]
    probing: Probing
    seconds: float
    peak: int | None


def record(job: Job, built: Built, trained: Trained, tested: Tested, warnings: Sequence[str] = ()) -> None:
    """Keep the adapter and the snapshots, write the result, and remove the checkpoints.

    Args:
        warnings: what else a reader of the result should know.
    """
    adapter_bytes = _keep_adapter(job)
    result = _result(job, built, trained, tested, adapter_bytes, warnings)
    if trained.diagnosing.found is not None:
        write_json(job.folder / DIAGNOSTICS, trained.diagnosing.found)
    job.store.write_result(job.spec, result)
    trained.checkpoints.remove()


def _keep_adapter(job: Job) -> int:
    """Move an adapter, or a whole model that is not too large, to the run's folder. Returns its size."""
    size = sum(file.stat().st_size for file in job.adapter.rglob("*") if file.is_file())
    if size and (not job.spec.trains_base or size <= job.execution.keep_weights_mb * 2**20):
        shutil.rmtree(job.folder / "adapter", ignore_errors=True)  # of a run whose result was deleted
        follow_umask(job.adapter)
        job.adapter.rename(job.folder / "adapter")
    return size


def _result(
    job: Job, built: Built, trained: Trained, tested: Tested, adapter_bytes: int, warnings: Sequence[str]
) -> Result:
    spec, execution, module = job.spec, job.execution, built.module
    several = {
        "devices": execution.processes,
        "strategy": execution.strategy if execution.processes > 1 else None,
    }
    return Result(
        hash=spec.hash,
        slug=spec.slug,
        spec=spec.model_dump(mode="json"),
        scores=tested.scores,
        other_scores=tested.other_scores,
        training=_training(job, built, trained),
        evaluation=Evaluation(
            seconds=tested.seconds,
            probing_seconds=tested.probing.seconds,
            items=len(module.predictions),
            merged=built.merge is not None,
            scorer_version=spec.benchmark.scorer_version,
            predictions=PREDICTIONS,
            batch_tokens=halved(execution.evaluation_tokens, module.evaluation_backoff),
        ),
        probes=tested.probing.found,
        trainable_parameters=built.adapter.trainable_parameters,
        adapted_layers={built.adapter.layer: built.adapter.adapted_layers} if built.adapter.layer else {},
        adapter_bytes=adapter_bytes,
        peak_memory_bytes=tested.peak,
        total_seconds=trained.usage.seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model_revision=built.revision,
        data_fingerprints=built.data.fingerprints,
        environment=environment(on_gpu(execution)).model_copy(update=several),
        warnings=(
            *(probe.warning for probe in tested.probing.found if probe.warning),
            *built.data.warnings,
            *score_warnings(tested.scores),
            *_memory_warnings(job, built),
            *_graph_warnings(built),
            *warnings,
        ),
    )


def _training(job: Job, built: Built, trained: Trained) -> Training:
    module, trains = built.module, job.spec.trains
    optimizer = trained.optimizer
    return Training(
        steps=len(module.losses),
        tokens=built.data.training_tokens if trains else 0,
        seconds=trained.timer.time_elapsed(),
        losses=tuple(module.losses),
        validation_losses=tuple(module.validation_losses),
        validation_scores=tuple(module.validation_scores),
        optimizer_state_bytes=state_bytes(optimizer) if optimizer else None,
        adamw_state_bytes=adamw_state_bytes(optimizer) if optimizer else None,
        kernel=module.kernel,
        micro_batch_size=halved(job.examples, module.oom_backoff) if trains else None,
        truncated=built.data.truncated if trains else None,
    )


def _graph_warnings(built: Built) -> Iterator[str]:
    if built.module.graph_problem is not None:
        yield (
            f"trained without CUDA graphs, in more time ({built.module.graph_problem}); set "
            "execution.cuda_graphs: false if they do not fit"
        )


def _memory_warnings(job: Job, built: Built) -> Iterator[str]:
    if built.module.oom_backoff:
        yield (
            f"out of memory in training: passes of {halved(job.examples, built.module.oom_backoff)} examples "
            f"instead of {job.examples}, the optimiser batch unchanged; set execution.micro_batch_size"
        )
    if built.module.evaluation_backoff:
        tokens = halved(job.execution.evaluation_tokens, built.module.evaluation_backoff)
        yield (
            f"out of memory in evaluation: batches of {tokens} tokens instead of "
            f"{job.execution.evaluation_tokens}; set execution.evaluation_tokens"
        )
