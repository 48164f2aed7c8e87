"""A result scored anew from its stored predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pydantic import ValidationError

from repro.benchmarks.base import TaskScore
from repro.plans.spec import RunSpec
from repro.reading import one_line
from repro.runs.json_files import DamagedFile
from repro.runs.result import Result, score_warnings
from repro.runs.store import Store
from repro.training.finetuning import Prediction


def rescored(spec: RunSpec, result: Result, store: Store, note: Callable[[str], None]) -> Result:
    """A finished run's result with the scores of the current scorer; what else it holds stays.

    Args:
        note: told which scores stay as they are, because their predictions were not kept.

    Raises:
        DamagedFile: a file of predictions is damaged, or does not hold every item of the result once.
        ConfigError: the scorer refuses the predictions.
    """
    scores = _scores(spec, result.scores, store)
    others = dict(result.other_scores)
    for rule, before in result.other_scores.items():
        if store.predictions_file(spec, rule).exists():
            others[rule] = _scores(spec, before, store, rule)
        else:
            note(f"{spec.slug}: the scores of its {rule} weights stay, their predictions were not kept")
    old = set(score_warnings(result.scores))
    kept = [warning for warning in result.warnings if warning not in old]
    version = {"scorer_version": spec.benchmark.scorer_version}
    return result.model_copy(
        update={
            "scores": scores,
            "other_scores": others,
            "evaluation": result.evaluation.model_copy(update=version),
            "warnings": (*score_warnings(scores), *kept),
        }
    )


def _scores(
    spec: RunSpec, before: dict[str, TaskScore], store: Store, rule: str | None = None
) -> dict[str, TaskScore]:
    predictions = store.predictions(spec, rule)
    fault = _fault(spec, before, predictions)
    if fault is not None:
        path = store.predictions_file(spec, rule)
        raise DamagedFile(f"{path}: {one_line(fault)}; move or delete {path.parent} to run it again")
    return spec.benchmark.score(predictions)


def _fault(spec: RunSpec, before: dict[str, TaskScore], predictions: list[Prediction]) -> str | None:
    """The first fault of predictions: a malformed one, an item twice, or not as many as the result has."""
    benchmark, seen = spec.benchmark, set()
    for number, prediction in enumerate(predictions, 1):
        try:
            benchmark.prediction.model_validate(prediction, strict=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            return f"line {number}: {where}: {problem['msg']}".replace(": : ", ": ")
        if prediction["id"] in seen:
            return f"line {number}: the item {prediction['id']} stands in it twice"
        seen.add(prediction["id"])
    if benchmark.shares_items:
        counts = dict.fromkeys(before, len(predictions))
    else:
        counts = Counter(prediction["task"] for prediction in predictions)
    for column in dict.fromkeys([*before, *counts]):
        expected = before[column].items if column in before else 0
        if counts.get(column, 0) != expected:
            return f"{counts.get(column, 0)} predictions of {column}, but the result has {expected} items"
    return None
