"""From stored predictions to GLUE's metrics, without any model.

A prediction is a mapping with `task`, `id`, `gold`, `logits` and, in MNLI, `part`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.benchmarks.base import TaskScore
from repro.benchmarks.data import DataError
from repro.benchmarks.glue.records import get_task

# Rises whenever the same predictions would get another score.
SCORER_VERSION = 1

Array = NDArray[np.float64]


def score(task: str, predictions: Sequence[Mapping[str, Any]]) -> TaskScore:
    """The task's metric in percent. A prediction that is no number counts as unparsed and as wrong.

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
        # Pearson's coefficient of two binary variables is Matthews': one formula serves both.
        correlation, pseudo = jackknife_correlation(answers, gold)
        value = 100 * correlation
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


def jackknife_correlation(x: Array, y: Array) -> tuple[float, Array]:
    """Pearson's correlation and its jackknife pseudo-values, shifted so that their mean is the correlation.

    Leaving an item out changes five sums, so all pseudo-values cost what one correlation does. A variable
    that does not vary correlates with nothing: 0, as scikit-learn has it for Matthews.
    """
    n = len(x)
    x, y = x - x.mean(), y - y.mean()  # against cancellation; the correlation does not change
    whole = _correlation(n, x.sum(), y.sum(), x @ x, y @ y, x @ y)
    if n < 3:
        return float(whole), np.full(n, float(whole))
    without = _correlation(n - 1, x.sum() - x, y.sum() - y, x @ x - x * x, y @ y - y * y, x @ y - x * y)
    pseudo = n * whole - (n - 1) * without
    return float(whole), pseudo - pseudo.mean() + whole


def _correlation(n: int, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    """From sums of n pairs: of x, y, x², y² and xy; arrays of such sums give arrays."""
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    # Sums of n values are exact to about n * 1e-16 of their size; what is below that is no spread at all.
    varies = spread > 1e-24 * np.maximum(n * xx * n * yy, 1e-300)
    return np.where(varies, (n * xy - x * y) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)
