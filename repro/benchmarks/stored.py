"""Predictions as a run stores them, read with exact types: a bool is no number, and a number no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from repro.training.data import DataError
from repro.training.data_files import shown


class StoredPrediction(BaseModel):
    """What a scorer reads of a prediction; other keys are for people."""

    model_config = ConfigDict(strict=True)

    id: str


class TaskPrediction(StoredPrediction):
    """A prediction of a family with several tasks."""

    task: str


P = TypeVar("P", bound=StoredPrediction)


def read_predictions(model: type[P], predictions: Sequence[Mapping[str, Any]], task: str) -> list[P]:
    """The predictions in their order; `task` is for the error, and must be theirs if they name one.

    Raises:
        DataError: there are none, or one is malformed or of another task.
    """
    if not predictions:
        raise DataError(f"no predictions of {task} to score; an empty test set has no metric")
    found = []
    for number, content in enumerate(predictions, 1):
        where = f"prediction {number} of {task}"
        try:
            read = model.model_validate(content)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"])) or "it"
            got = shown(problem["input"])
            raise DataError(f"{where}: {place}: {problem['msg']} (got {got}); predict it again") from error
        if isinstance(read, TaskPrediction) and read.task != task:
            raise DataError(f"{where}, {shown(read.id)}, is of {shown(read.task)}; predict it again")
        found.append(read)
    return found


def by_id(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """In the order of ids, so that the outcomes of two runs can be paired.

    Raises:
        DataError: one is no mapping with an id, or two are of one item.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for number, prediction in enumerate(predictions, 1):
        name = prediction.get("id") if isinstance(prediction, Mapping) else None
        if not isinstance(name, str):
            raise DataError(f"prediction {number} is {shown(prediction)}, without an id; predict it again")
        if name in found:
            raise DataError(f"prediction {number}: {shown(name)} is there twice; keep one prediction an item")
        found[name] = prediction
    return [found[name] for name in sorted(found)]
