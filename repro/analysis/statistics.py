"""Intervals for accuracies, and differences of accuracies, over a set of items and a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats has them too, and takes a second to import


@dataclass(frozen=True)
class Estimate:
    """A mean with the half-width of its interval, over so many runs.

    Attributes:
        half_width: None where one item, or nothing, was measured.
        error: standard error of the mean, None likewise; `freedom` are its degrees of freedom.
    """

    mean: float
    half_width: float | None
    runs: int
    error: float | None = None
    freedom: float | None = None

    def p_below(self, bound: float) -> float:
        """One-sided p-value of the truth being at or below `bound`, by Student's t; 1 if nothing varied."""
        if not self.error or self.freedom is None:
            return 1.0
        return float(stdtr(self.freedom, (bound - self.mean) / self.error))

    def p_above(self, bound: float) -> float:
        """The same of the truth being at or above `bound`."""
        return replace(self, mean=-self.mean).p_below(-bound)


def mean_over_tasks(tasks: list[NDArray[np.float64]], confidence: float = 0.95) -> Estimate:
    """Unweighted mean over tasks of the mean over items, with an interval for other items and other seeds.

    Args:
        tasks: one array a task, (runs, items), as `outcomes_array` gives it, the same runs in each. Or the
            differences of two such arrays over the same items, for the interval of a paired comparison.
        confidence: coverage that the interval aims at.

    Two variances are added. Items: of each item's mean over the runs, so that items that every seed gets
    wrong count once and not once a seed. Seeds: of the runs' own means. What a seed changes in single items
    enters both, so with few items the interval errs on the wide side. The quantile is
    Student's, with Welch and Satterthwaite's degrees of freedom for the sum of the two.

    No bootstrap: three seeds drawn again from themselves vary by two thirds of what they should. In 400
    simulated experiments (8 tasks, 3 seeds with a spread of 5 points) a percentile bootstrap over seeds and
    items covered 88 % at 64 items a task and 74 % at 500, this interval 93 and 91 %.
    """
    runs = {task.shape[0] for task in tasks}
    if len(runs) != 1:
        raise ValueError(f"every task must have the same runs, got {sorted(runs)} runs")
    (run_count,) = runs
    run_means = np.mean([task.mean(axis=1) for task in tasks], axis=0)
    item_parts = [
        (np.var(task.mean(axis=0), ddof=1) / task.shape[1] / len(tasks) ** 2, task.shape[1] - 1)
        for task in tasks
        if task.shape[1] > 1
    ]
    parts = list(item_parts)
    if run_count > 1:
        parts.append((np.var(run_means, ddof=1) / run_count, run_count - 1))
    variance = sum(part for part, _ in parts)
    mean = float(run_means.mean())
    if len(item_parts) < len(tasks):
        return Estimate(mean=mean, half_width=None, runs=run_count)
    freedom = float(variance**2 / sum(part**2 / df for part, df in parts)) if variance > 0 else 1.0
    error = float(np.sqrt(variance))
    half_width = float(stdtrit(freedom, (1 + confidence) / 2) * error)
    return Estimate(mean=mean, half_width=half_width, runs=run_count, error=error, freedom=freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979), in the given order; each at least what it was."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def outcomes_array(outcomes: Sequence[str | tuple[float, ...]]) -> NDArray[np.float64]:
    """Stored outcomes of one column, those of a run each, as an array (runs, items) in the column's unit."""
    lengths = {len(run) for run in outcomes}
    if len(lengths) != 1:
        raise ValueError(f"runs of one row were tested on different numbers of items: {sorted(lengths)}")
    # Digits are rights and wrongs of an accuracy, which is printed in percent.
    return np.array([100.0 * _digits(run) if isinstance(run, str) else run for run in outcomes])


def _digits(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("ascii"), np.uint8) - ord("0")
