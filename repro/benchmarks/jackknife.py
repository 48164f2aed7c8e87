"""Jackknife pseudo-values, which give a corpus-level metric a confidence interval like that of a mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def jackknife(statistics: Array, metric: Callable[[Array], Array]) -> tuple[float, Array]:
    """A metric that is a function of sums over items, and its pseudo-values, one per item.

    Args:
        statistics: what each item adds to the sums, (items, sums).
        metric: maps sums (..., sums) to values (...).

    Returns:
        The metric, and n * whole - (n - 1) * without the item (Tukey, 1958), shifted so that their mean is
        the metric. Their standard error is the metric's. Leaving out an item is one subtraction, so this
        costs little more than the metric.
    """
    count = len(statistics)
    sums = statistics.sum(axis=0)
    whole = float(metric(sums))
    if count < 2:
        return whole, np.full(count, whole)
    pseudo = count * whole - (count - 1) * metric(sums - statistics)
    return whole, pseudo - pseudo.mean() + whole
