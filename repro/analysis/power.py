"""Power of a comparison: how often its interval would exclude 0, by gain, items per task and seeds."""

from __future__ import annotations

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from repro.analysis.statistics import Spread

# Equally likely values of the seeds' variance that an experiment may find.
_DRAWS = (np.arange(500) + 0.5) / 500
# Gains, in points, within which the smallest one that is found is searched.
_LEAST, _MOST = 1e-3, 1e3


def power(spread: Spread, gain: float, seeds: int, items: float, confidence: float = 0.95) -> float:
    """Probability that the two-sided interval of the paired difference excludes 0.

    Args:
        spread: variance components of the difference, from `statistics.spread`; of any measure.
        gain: true difference, in the unit of the measure.
        seeds: number of seeds. The interval of one seed is over items only, but the luck of the seed is in
            the difference: it excludes 0 more often than it should, without any gain too.
        items: items per task.

    The difference is taken as normal, the variance of the seeds' means as chi-squared; that of the items,
    which are many, as known. Components of one seed lack what seeds add, so that power is an upper bound.
    """
    more = items / spread.per_task
    of_items, noise = spread.items / more, spread.noise / more
    freedom, tail = spread.item_freedom * more, (1 - confidence) / 2
    error = np.sqrt(of_items + (spread.seeds + noise) / seeds)
    if not error:
        return float(gain != 0)
    if seeds == 1 or spread.runs == 1:
        half_width = -stdtrit(freedom, tail) * np.sqrt(of_items + noise / seeds)
    else:
        found = chdtri(seeds - 1, _DRAWS) / (seeds - 1) * (spread.seeds + noise) / seeds
        half_width = np.sqrt(stdtrit(freedom, tail) ** 2 * of_items + stdtrit(seeds - 1, tail) ** 2 * found)
    return float(np.mean(ndtr((gain - half_width) / error) + ndtr((-gain - half_width) / error)))


def smallest_gain(spread: Spread, seeds: int, items: float, wanted: float = 0.8) -> float:
    """The smallest true gain that is found with the probability `wanted`, arguments as in `power`.

    By bisection, to 1 part in 1000; infinite above 1000 points.
    """
    low, high = _LEAST, _MOST
    if power(spread, high, seeds, items) < wanted:
        return float("inf")
    while high > low * 1.001:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if power(spread, middle, seeds, items) >= wanted else (middle, high)
    return high
