"""Scoring anew takes every item of a result once, and leaves what is not the scorer's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.config import ConfigError
from repro.paths import REFERENCE
from repro.plans.spec import RunSpec
from repro.runs.rerun import read_run
from repro.runs.rescoring import rescored
from repro.runs.result import Result
from repro.runs.store import Store

Predictions = list[dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunSpec, Result, Store, Predictions]:
    """A committed run of SST-2, whose predictions are made up anew, and with a score by another rule."""
    spec, result = read_run(next(REFERENCE.glob("runs/glue-sst2--*--lora--seed0--*/result.json")))
    result = result.model_copy(update={"other_scores": {"last": result.scores}})
    items = result.scores["sst2"].items
    predictions = [
        {"task": "sst2", "id": f"sst2/{i:04}", "gold": 1.0, "logits": [0.0, 1.0]} for i in range(items)
    ]
    store = Store(tmp_path)
    store.write_predictions(spec, predictions)
    return spec, result, store, predictions


def test_warnings_of_others_and_other_scores_stay_or_are_renewed(
    run: tuple[RunSpec, Result, Store, Predictions],
) -> None:
    spec, result, store, predictions = run
    notes: list[str] = []
    after = rescored(spec, result.model_copy(update={"warnings": ("out of memory",)}), store, notes.append)
    assert after.scores["sst2"].value == 100
    # log softmax(0, 1)[1]
    assert set(after.scores["sst2"].log_probabilities) == {-0.313}
    assert after.evaluation.scorer_version == spec.benchmark.scorer_version
    assert after.warnings == ("out of memory",)
    assert after.other_scores == result.other_scores and len(notes) == 1
    (rule,) = result.other_scores
    store.write_predictions(spec, predictions, rule)
    after = rescored(spec, result, store, notes.append)
    assert after.other_scores[rule]["sst2"].value == 100 and len(notes) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p[:5],
        lambda p: p + p[:1],
        lambda p: p[:-1] + p[:1],
        lambda p: [{**item, "task": "rte"} for item in p],
        lambda p: [{**item, "task": "nothing"} for item in p],
        lambda p: [{**item, "gold": None} for item in p],
        lambda p: [{**item, "gold": True} for item in p],
        lambda p: [{**item, "gold": 2} for item in p],
        lambda p: [{**item, "logits": [0.0]} for item in p],
        lambda p: [{}, *p[1:]],
        lambda p: [[1], *p[1:]],
    ],
)
def test_other_predictions_than_the_result_s_are_refused(
    change: Callable[[Predictions], Any], run: tuple[RunSpec, Result, Store, Predictions]
) -> None:
    spec, result, store, predictions = run
    store.write_predictions(spec, change(predictions))
    with pytest.raises(ConfigError) as caught:
        rescored(spec, result, store, lambda line: None)
    said = str(caught.value)
    assert said.startswith(str(store.predictions_file(spec))) and "\n" not in said


def test_a_damaged_archive_is_one_line(run: tuple[RunSpec, Result, Store, Predictions]) -> None:
    spec, result, store, _ = run
    path = store.predictions_file(spec)
    packed = path.read_bytes()
    path.write_bytes(packed[:30] + packed[30:60][::-1] + packed[60:])
    with pytest.raises(ConfigError, match=r"predictions.jsonl.gz: cannot be read"):
        rescored(spec, result, store, lambda line: None)
