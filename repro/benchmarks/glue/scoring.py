"""GLUE's metrics of stored predictions, without a model.

A prediction is a mapping with `task`, `id`, `gold`, `logits` and, in MNLI, `part`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repro.benchmarks.base import TaskScore
from repro.benchmarks.glue.records import get_task
from repro.benchmarks.jackknife import Array, jackknife
from repro.training.data import DataError


def score(task: str, predictions: Sequence[Mapping[str, Any]]) -> TaskScore:
    """The task's metric in percent. A prediction with a NaN or infinite logit is unparsed, and wrong.

    Raises:
        DataError: there is nothing to score.
    """
    if not predictions:
        raise DataError(f"no predictions of {task} to score; an empty test set has no metric")
    described = get_task(task)
    logits = np.array([p["logits"] for p in predictions], dtype=np.float64)
    gold = np.array([p["gold"] for p in predictions], dtype=np.float64)
    readable = np.isfinite(logits).all(axis=1)
    name: str = described.metric
    outcomes: str | tuple[float, ...]
    if described.labels == 1:
        answers = np.where(readable, logits[:, 0], 0.0)
    else:
        answers = np.where(readable, logits.argmax(axis=1), -1.0)
    if described.metric == "accuracy":
        right = answers == gold
        value = 100 * float(right.mean())
        outcomes = "".join("1" if item else "0" for item in right)
        if task == "mnli":
            parts = {p["part"] for p in predictions}
            name += " (matched and mismatched pooled)" if len(parts) > 1 else f" ({parts.pop()})"
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
        unparsed=1 - float(readable.mean()),
        constant=bool(np.ptp(answers) == 0 < np.ptp(gold)),
    )


def metric(task: str, logits: Array, gold: Array) -> float:
    """The metric alone, in percent, for logits (items, classes) and gold labels (items,)."""
    rows = zip(logits.tolist(), gold.tolist(), strict=True)
    value = score(task, [{"logits": row, "gold": label, "part": ""} for row, label in rows]).value
    assert value is not None
    return value


def correlation(x: Array, y: Array) -> tuple[float, Array]:
    """Pearson's correlation of two vectors (items,), and the items' jackknife pseudo-values (items,).

    If a variable is constant the correlation is 0, as in scikit-learn's Matthews.
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
