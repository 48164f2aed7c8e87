"""The difference of two rows, paired by item and seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repro.analysis.finished import ByColumn, are_accuracies, same_items
from repro.analysis.measures import Measure, has_measure, measured
from repro.analysis.statistics import DIFFERENCES, Estimate, Span, mean_over_tasks


def paired_difference(
    better: ByColumn, worse: ByColumn, columns: Sequence[str], measure: Measure = "score"
) -> Estimate | None:
    """Mean paired difference over columns, on common items and on seeds that both rows have in all columns.

    None without a common seed, or if the test items differ, or if a run lacks the measure's numbers.
    """
    found = paired_outcomes(better, worse, columns, measure)
    return None if found is None else mean_over_tasks(*found)


def paired_outcomes(
    better: ByColumn, worse: ByColumn, columns: Sequence[str], measure: Measure = "score"
) -> tuple[list[NDArray[np.float64]], Span | None] | None:
    """The paired differences of a measure, an array (seeds, items) per column, and their limits if any.

    None as in `paired_difference`.
    """
    shared = [better[column].keys() & worse[column].keys() for column in columns]
    seeds = sorted(set.intersection(*map(set, shared))) if shared else []
    if not seeds:
        return None
    differences, bounded = [], True
    for column in columns:
        one, other = ([row[column][seed] for seed in seeds] for row in (better, worse))
        if not same_items([*one, *other], column):
            return None
        if not has_measure([*one, *other], column, measure):
            return None
        differences.append(measured(one, column, measure) - measured(other, column, measure))
        bounded = bounded and (measure == "probability" or are_accuracies([*one, *other], column))
    return differences, DIFFERENCES if bounded else None
