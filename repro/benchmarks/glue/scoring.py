"""GLUE's metrics of stored predictions, without a model.

A prediction is a mapping with `task`, `id`, `gold`, `logits` and, in MNLI, `part`. The log-probability of a
gold class is the log-softmax of the logits there. STS-B, a regression, has no classes, and none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repro.benchmarks.base import Answer, TaskScore
from repro.benchmarks.glue.records import Task, check_label, get_task
from repro.benchmarks.gold_probability import FLOOR, gold_log_probability
from repro.benchmarks.jackknife import Array, jackknife
from repro.benchmarks.stored import TaskPrediction, read_predictions
from repro.training.data import DataError
from repro.training.data_files import shown


class _Prediction(TaskPrediction):
    gold: float
    logits: list[float]
    part: str = ""


def score(task: str, predictions: Sequence[Mapping[str, Any]]) -> TaskScore:
    """The task's metric in percent, and the log-probabilities of its gold classes.

    A prediction with a NaN or infinite logit is unparsed, and wrong; its log-probability is the floor.

    Raises:
        DataError: there is nothing to score, or a prediction is malformed, or of another task.
    """
    described = get_task(task)
    read = _read(described, predictions)
    return _score(
        described,
        np.array([item.logits for item in read], dtype=np.float64),
        np.array([item.gold for item in read], dtype=np.float64),
        {item.part for item in read},
    )


def answer(task: str, prediction: Mapping[str, Any]) -> Answer:
    """The class with the largest logit, or STS-B's number.

    Raises:
        DataError: the prediction is malformed, or of another task.
    """
    described = get_task(task)
    (read,) = _read(described, [prediction])
    readable = bool(np.isfinite(read.logits).all())
    if described.labels == 1:
        return Answer(text=f"{read.logits[0]:.2f}" if readable else "", read=readable)
    return Answer(int(np.argmax(read.logits)) if readable else None, tuple(read.logits), read=readable)


def _read(described: Task, predictions: Sequence[Mapping[str, Any]]) -> list[_Prediction]:
    read = read_predictions(_Prediction, predictions, described.name)
    for item in read:
        where = f"prediction {shown(item.id)}"
        check_label(described, item.gold, where)
        if len(item.logits) != described.labels:
            raise DataError(
                f"{where} has {len(item.logits)} logits for {described.labels} outputs; predict it again"
            )
    return read


def metric(task: str, logits: Array, gold: Array) -> float:
    """The metric alone, in percent, for logits (items, classes) and gold labels (items,)."""
    value = _score(get_task(task), logits, gold, {""}).value
    assert value is not None
    return value


def _score(task: Task, logits: Array, gold: Array, parts: set[str]) -> TaskScore:
    readable = np.isfinite(logits).all(axis=1)
    if task.labels == 1:
        answers = np.where(readable, logits[:, 0], _worst_scores(logits[readable, 0], gold))
    elif task.metric == "accuracy":
        answers = np.where(readable, logits.argmax(axis=1), -1.0)
    else:  # a third class could agree with one of the two
        answers = np.where(readable, logits.argmax(axis=1), 1.0 - gold)
    name: str = task.metric
    outcomes: str | tuple[float, ...]
    if task.metric == "accuracy":
        right = answers == gold
        value = 100 * float(right.mean())
        outcomes = "".join("1" if item else "0" for item in right)
        if task.name == "mnli":
            name += " (matched and mismatched pooled)" if len(parts) > 1 else f" ({min(parts)})"
    else:
        # Pearson's correlation of two binary variables is Matthews', so one formula serves both.
        whole, pseudo = correlation(answers, gold)
        value = 100 * whole
        outcomes = tuple(round(100 * float(item), 4) for item in pseudo)
    return TaskScore(
        metric=name,
        value=value,
        items=len(gold),
        outcomes=outcomes,
        log_probabilities=_log_probabilities(logits, gold) if task.labels > 1 else (),
        unparsed=1 - float(readable.mean()),
        constant=bool(np.ptp(answers) == 0 < np.ptp(gold)),
    )


def _log_probabilities(logits: Array, gold: Array) -> tuple[float, ...]:
    """Of the gold classes, for logits (items, classes) and gold labels (items,)."""
    return tuple(
        gold_log_probability(row, int(label)) if all(map(math.isfinite, row)) else FLOOR
        for row, label in zip(logits.tolist(), gold, strict=True)
    )


def _worst_scores(answers: Array, gold: Array) -> Array:
    """For each item the wrongest of the readable answers: the lowest where the gold score is above the mean,
    the highest elsewhere. A fixed number would be right for some item, or small beside the other answers.
    """
    if not len(answers):
        return np.zeros_like(gold)
    return np.where(gold > gold.mean(), answers.min(), answers.max())


def correlation(x: Array, y: Array) -> tuple[float, Array]:
    """Pearson's correlation of two vectors (items,), and the items' jackknife pseudo-values (items,).

    If a variable is constant, and so for a single item, the correlation is 0, as in scikit-learn's Matthews.
    SciPy's Pearson is NaN there, which no table could average.
    """
    x, y = x - x.mean(), y - y.mean()  # avoids cancellation and leaves the correlation as it is
    return jackknife(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), _from_sums)


def _from_sums(sums: Array) -> Array:
    """From sums of 1, x, y, x², y² and xy: (..., 6) to (...)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    # A sum of squares is exact to about 1e-16 of its size; a smaller spread is rounding.
    varies = spread > 1e-24 * n * xx * n * yy
    return np.where(varies, (n * xy - x * y) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)
