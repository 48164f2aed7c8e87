"""Confidence intervals of scores, and of paired differences of scores, over items and a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats has them too, and takes a second to import

Span = tuple[float, float]
"""The smallest and the largest possible outcome."""

ACCURACIES: Span = (0.0, 100.0)
DIFFERENCES: Span = (-100.0, 100.0)
"""Of two accuracies."""


@dataclass(frozen=True)
class Alike:
    """Items of which none differs from the others of its task, so that their variance says nothing.

    What can be said is exact, as for a binomial (Clopper and Pearson 1934): a true mean at a distance d takes
    a share of at least d / reach of unlike items, and n items show none of them with a probability of at most
    (1 - d / reach)^n. If all of n items are better, p of "not better" is 2^-n, as in the sign test.

    Attributes:
        items: number of items, with every task as large as the smallest.
        down, up: reach, how far an unlike item can be below and above the others of its task.
    """

    items: float
    down: float
    up: float

    def p_below(self, distance: float) -> float:
        """p-value of the null "the true mean is at least `distance` below"."""
        if distance <= 0:
            return 1.0
        return (1 - distance / self.down) ** self.items if distance < self.down else 0.0

    def half_width(self, confidence: float) -> float:
        """Half-width of the interval, by the larger reach, so that it may end outside the possible values."""
        return max(self.down, self.up) * float(1 - ((1 - confidence) / 2) ** (1 / self.items))


Part = tuple[float, float]
"""A part of a mean's variance, greater than 0, and the degrees of freedom that it is estimated with."""


@dataclass(frozen=True)
class Estimate:
    """A mean over `runs` runs with its confidence interval.

    The half-width at a tail p is the root of sum_k t(p, f_k)^2 v_k over the parts v_k with their degrees of
    freedom f_k (Banerjee 1960, Sankhya 22, 357). It covers the truth at least as often as it says, whatever
    the shares of the parts: the probability of it is the mean of F(sum_k w_k t_k^2 c_k / f_k), with the true
    shares w_k, c_k of chi-squared distribution and F that of one degree of freedom, and F is concave. With
    one part it is Student's interval.

    Attributes:
        half_width: half-width of the interval; None if a task has fewer than two items, or if all are equal
            in a metric whose values have no limits.
        parts: the variance of the mean; empty likewise, and where it would be 0.
        alike: in place of `parts` where the variance is 0, if the values have limits.
    """

    mean: float
    half_width: float | None
    runs: int
    parts: tuple[Part, ...] = ()
    alike: Alike | None = None

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None without a variance."""
        return sqrt(sum(part for part, _ in self.parts)) if self.parts else None

    def p_below(self, bound: float) -> float:
        """One-sided p-value of the null "true mean <= bound", by the interval or exact; 1 without either."""
        if self.alike is not None:
            return self.alike.p_below(self.mean - bound)
        if self.error is None:
            return 1.0
        tail = _tail(self.parts, abs(self.mean - bound), self.error)
        return tail if bound <= self.mean else 1 - tail

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the null "true mean >= bound"."""
        alike = self.alike and replace(self.alike, down=self.alike.up, up=self.alike.down)
        return replace(self, mean=-self.mean, alike=alike).p_below(-bound)


# Smaller ones are not told apart, and their quantiles would leave the range of numbers.
_SMALLEST_TAIL = 1e-30


def half_width(parts: Sequence[Part], tail: float) -> float:
    """Half-width of the interval that leaves out `tail` on either side, see `Estimate`."""
    return sqrt(sum(part * float(stdtrit(freedom, tail)) ** 2 for part, freedom in parts))


def _tail(parts: Sequence[Part], distance: float, error: float) -> float:
    """The tail at which the half-width is `distance`."""
    # Student's tails with the fewest and with the most degrees of freedom enclose it.
    most, least = (
        max(float(stdtr(pick(freedom for _, freedom in parts), -distance / error)), _SMALLEST_TAIL)
        for pick in (min, max)
    )
    if most <= least * (1 + 1e-9):
        return most
    if half_width(parts, least) <= distance:
        return least
    from scipy.optimize import brentq  # takes a moment to import, and only several seeds need it

    return exp(brentq(lambda p: half_width(parts, exp(p)) - distance, log(least), log(most)))


@dataclass(frozen=True)
class Spread:
    """Variance components of a mean over tasks: items nested in tasks, crossed with seeds, both random.

    The variance of the mean is items + (seeds + noise) / runs. What a seed does to one task is in `seeds`.

    Attributes:
        items: variance due to the sample of items, equal for all seeds, at the present number of items.
        noise: variance due to item-seed interaction, for one seed, at the present number of items.
        seeds: variance of the seeds' means without it, for one seed.
        runs: number of seeds.
        per_task: mean number of items per task.
        item_freedom: degrees of freedom of the items.
        alike: in their place, where all three are 0.
        borrowed: degrees of freedom of the seeds from other rows (`repro.analysis.moderated`).

    One seed does not separate the three. All variance is then taken as `noise`, which falls with seeds and
    with items, so estimates for more seeds are lower bounds.
    """

    items: float
    noise: float
    seeds: float
    runs: int
    per_task: float
    item_freedom: float
    alike: Alike | None = None
    borrowed: float = 0.0

    def estimate(
        self, mean: float, seeds: int, more_items: float = 1.0, confidence: float = 0.95
    ) -> Estimate:
        """The estimate with `seeds` seeds and `more_items` times the items, if nothing else changes.

        One seed has an interval over items only.
        """
        items, noise = self.items / more_items, self.noise / more_items
        freedom = self.item_freedom * more_items
        if seeds == 1 or self.runs == 1:
            parts = [(items + noise / seeds, freedom)]
        else:
            parts = [(items, freedom), ((self.seeds + noise) / seeds, seeds - 1.0 + self.borrowed)]
        known = tuple(part for part in parts if part[0] > 0)
        if known:
            return Estimate(mean, half_width(known, (1 - confidence) / 2), seeds, known)
        same = self.alike and replace(self.alike, items=self.alike.items * more_items)
        return Estimate(mean, None if same is None else same.half_width(confidence), seeds, alike=same)


def spread(tasks: Sequence[NDArray[np.float64]], span: Span | None = None) -> Spread | None:
    """Variance components; None if a task has one item.

    Two-way ANOVA without replication for each task: the residual after item and seed means is the noise,
    which is in the variances of both and is subtracted from them. It is taken to be at most the variance of
    the seeds' means, so that the whole is never below that of the items' means or of the seeds' means.

    Args:
        tasks, span: as in `mean_over_tasks`.
    """
    runs = tasks[0].shape[0]
    if any(task.shape[1] < 2 for task in tasks):
        return None
    weights = [task.shape[1] * len(tasks) ** 2 for task in tasks]
    own = [variance(task.mean(axis=0)) / weight for task, weight in zip(tasks, weights, strict=True)]
    whole = sum(own)
    # Welch-Satterthwaite over the tasks.
    shares = sum(part**2 / (task.shape[1] - 1) for part, task in zip(own, tasks, strict=True))
    noise, luck = whole, whole
    if runs > 1:
        luck = variance(np.mean([task.mean(axis=1) for task in tasks], axis=0))
        residual = sum(_residual_variance(task) / weight for task, weight in zip(tasks, weights, strict=True))
        noise = min(residual, luck)
    return Spread(
        items=max(0.0, whole - noise / runs),
        noise=noise,
        seeds=luck - noise,
        runs=runs,
        per_task=float(np.mean([task.shape[1] for task in tasks])),
        item_freedom=whole**2 / shares if shares else 1.0,
        alike=alike(tasks, span),
    )


def mean_over_tasks(
    tasks: Sequence[NDArray[np.float64]], span: Span | None = None, confidence: float = 0.95
) -> Estimate:
    """Unweighted mean over tasks of the mean over items, with an interval over items and seeds.

    Args:
        tasks: one array (runs, items) per task, from `outcomes_array`, with the same runs in each.
            Differences of two such arrays give a paired comparison.
        span: limits of the outcomes; None if they have none, as in a corpus-level metric.
        confidence: nominal coverage of the interval.

    Raises:
        ValueError: tasks have different numbers of runs, or one has no items.

    The variance is that of `Spread`, the interval that of `Estimate`; docs/statistics.md compares its
    coverage with that of others. With one run it is over items only. Without any variance the interval of
    outcomes with limits is exact, see `Alike`; others have none.
    """
    runs = {task.shape[0] for task in tasks}
    if len(runs) != 1:
        raise ValueError(f"every task must have the same runs, got {sorted(runs)} runs")
    if any(task.size == 0 for task in tasks):
        raise ValueError("a task without items has no mean")
    (run_count,) = runs
    mean = float(np.mean([task.mean() for task in tasks]))
    found = spread(tasks, span)
    if found is None:
        return Estimate(mean, None, run_count)
    return found.estimate(mean, run_count, confidence=confidence)


def variance(values: NDArray[np.float64]) -> float:
    """The sample variance; exactly 0 where values differ by no more than rounding."""
    return 0.0 if np.ptp(values) < 1e-9 else float(np.var(values, ddof=1))


def _residual_variance(task: NDArray[np.float64]) -> float:
    residual = task - task.mean(axis=0, keepdims=True) - task.mean(axis=1, keepdims=True) + task.mean()
    return float((residual**2).sum() / ((task.shape[0] - 1) * (task.shape[1] - 1)))


def alike(tasks: Sequence[NDArray[np.float64]], span: Span | None) -> Alike | None:
    """What stands for a variance if there is none; arguments as in `mean_over_tasks`."""
    if span is None:
        return None
    return Alike(
        items=len(tasks) * min(task.shape[1] for task in tasks),
        down=max(float(task.max()) for task in tasks) - span[0],
        up=span[1] - min(float(task.min()) for task in tasks),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values with Holm's correction for multiple tests (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def outcomes_array(outcomes: Sequence[str | tuple[float, ...]]) -> NDArray[np.float64]:
    """Stored outcomes of one column, one sequence per run, as an array (runs, items) in the column's unit.

    Raises:
        ValueError: runs have different numbers of items.
    """
    lengths = {len(run) for run in outcomes}
    if len(lengths) != 1:
        raise ValueError(f"runs of one row were tested on different numbers of items: {sorted(lengths)}")
    # A string holds a digit per item, 1 right and 0 wrong; accuracies are in percent.
    return np.array([100.0 * _digits(run) if isinstance(run, str) else run for run in outcomes])


def _digits(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("ascii"), np.uint8) - ord("0")
