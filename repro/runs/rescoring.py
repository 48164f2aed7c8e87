"""A result scored anew from its stored predictions."""

from __future__ import annotations

from collections.abc import Callable

from repro.benchmarks.base import TaskScore
from repro.plans.spec import RunSpec
from repro.reading import excerpt
from repro.runs.json_files import DamagedFile
from repro.runs.result import Result, score_warnings
from repro.runs.store import Store
from repro.training.data import DataError


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
    try:
        scores = spec.benchmark.score(predictions)
        for column, score in before.items():
            if scores[column].items != score.items:
                raise DataError(
                    f"{scores[column].items} predictions of {column}, but the result has {score.items} items"
                )
        return scores
    except DataError as error:
        path = store.predictions_file(spec, rule)
        raise DamagedFile(
            f"{path}: {excerpt(str(error))}; move or delete {path.parent} to run it again"
        ) from error
