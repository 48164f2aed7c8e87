"""Tests a finished run again with its adapter beside the base's weights: what merging costs in score.

A run merges its adapter in the base's precision. In bf16 that rounds away a part of dW, in places most of it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import lightning as L

from repro.config import ConfigError
from repro.models.loading import load_tokenizer, loaded_revision
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.build import context_of
from repro.runs.environment import environment
from repro.runs.job import on_gpu
from repro.runs.json_files import write_json
from repro.runs.known_unmerged import Unmerged, known_unmerged, was_merged
from repro.runs.rerun import executed_as
from repro.runs.result import Result
from repro.runs.starting import evaluated_model
from repro.runs.store import UNMERGED, Store
from repro.runs.trainer import lightning_trainer
from repro.training.out_of_memory import halved


def run_unmerged(
    spec: RunSpec, result: Result, store: Store, execution: Execution, bases: BaseModels
) -> Unmerged:
    """The test of a finished run without merging, stored with its result. What is stored already is returned.

    It has the run's own precision, protocol, items and batches, and one device.

    Raises:
        RunBusy: another process works on the run.
        RunWaits: the run whose adapter it evaluates is not done.
        ConfigError: nothing was merged for its test; its adapter was not kept; its model, data or scorer
            are others now; or there is a file that cannot be used.
    """
    with store.claimed(spec):
        known = known_unmerged(spec, result, store)
        if known is not None:
            return known
        if not was_merged(result):
            raise ConfigError("nothing was merged for its own test")
        scorer = spec.benchmark.scorer_version
        if result.evaluation.scorer_version != scorer:
            raise ConfigError(
                f"scored with version {result.evaluation.scorer_version}, this code scores with version "
                f"{scorer}; run `repro score` first"
            )
        own = {"devices": 1, "nodes": 1}
        with quiet_libraries():
            found = _tested(spec, result, store, executed_as(result, execution).model_copy(update=own), bases)
        write_json(store.directory(spec) / UNMERGED, found)
    return found


def _tested(spec: RunSpec, result: Result, store: Store, execution: Execution, bases: BaseModels) -> Unmerged:
    L.seed_everything(spec.seed, workers=True, verbose=False)
    model = evaluated_model(spec, store, bases)
    examples = execution.examples(spec.training.batch_size)
    context = context_of(spec, load_tokenizer(spec.model), examples, execution.evaluation_tokens)
    data = spec.benchmark.data(context)
    revision, fingerprint = loaded_revision(spec.model), data.fingerprints["test"]
    for what, now, then in [
        ("base model", revision, result.model_revision),
        ("test data", fingerprint, result.data_fingerprints.get("test")),
    ]:
        if now != then:
            raise ConfigError(f"its {what} was {then}, here it is {now}; repeat the run")
    module = spec.benchmark.module(model, context, steps=0)
    trainer = lightning_trainer(spec, execution, None, store.directory(spec))
    began = time.perf_counter()
    trainer.test(module, datamodule=data, verbose=False)
    return Unmerged(
        hash=spec.hash,
        scores=spec.benchmark.score(module.predictions),
        scorer_version=spec.benchmark.scorer_version,
        seconds=round(time.perf_counter() - began, 1),
        items=len(module.predictions),
        batch_tokens=halved(execution.evaluation_tokens, module.evaluation_backoff),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model_revision=revision,
        data_fingerprint=fingerprint,
        environment=environment(on_gpu(execution)),
    )
