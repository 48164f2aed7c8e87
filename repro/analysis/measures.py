"""The two measures of a run's items: its score, and the probability of the gold answers in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repro.analysis.statistics import outcomes_array
from repro.runs.result import Result

Measure = Literal["score", "probability"]


def has_measure(results: Sequence[Result], column: str, measure: Measure) -> bool:
    """Whether all runs have the measure's numbers of a column in which they have a score."""
    return measure == "score" or all(result.scores[column].log_probabilities for result in results)


def measured(results: Sequence[Result], column: str, measure: Measure) -> NDArray[np.float64]:
    """The measure of a column, item by item, (runs, items): in the column's unit, or in percent."""
    if measure == "score":
        return outcomes_array([result.scores[column].outcomes for result in results])
    return 100 * np.exp(log_probabilities(results, column))


def log_probabilities(results: Sequence[Result], column: str) -> NDArray[np.float64]:
    """Of the gold answers, item by item, (runs, items) in nats."""
    return outcomes_array([result.scores[column].log_probabilities for result in results])
