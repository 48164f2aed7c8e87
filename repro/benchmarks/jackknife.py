"""Items' shares in a metric of all items together, so that it gets an interval like any mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def jackknife(statistics: Array, metric: Callable[[Array], Array]) -> tuple[float, Array]:
    """A metric that is a function of sums over items, and its pseudo-values, one an item.

    Args:
        statistics: what each item adds to the sums, (items, sums).
        metric: from sums (..., sums) to values (...).

    Returns the metric and n * whole - (n - 1) * without the item (Tukey 1958), shifted so that their mean is
    the metric: their standard error is the metric's. Leaving an item out is a subtraction, so all of them
    cost hardly more than the metric.
    """
    count = len(statistics)
    sums = statistics.sum(axis=0)
    whole = float(metric(sums))
    if count < 2:
        return whole, np.full(count, whole)
    pseudo = count * whole - (count - 1) * metric(sums - statistics)
    return whole, pseudo - pseudo.mean() + whole
