"""Power analysis: variance components of a difference, and its estimate with more seeds or items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repro.analysis.statistics import Alike, Estimate, Span, alike, variance


@dataclass(frozen=True)
class Spread:
    """Variance components of a mean difference.

    Attributes:
        items: variance due to the sample of items, equal for all seeds, at the present number of items.
        noise: variance due to item-seed interaction, for one seed.
        seeds: variance of the seeds' means, for one seed.
        runs: number of seeds.
        per_task: mean number of items per task.
        item_freedom: degrees of freedom of `items`.
        alike: in their place, where all three are 0.

    One seed does not separate the three. All variance is then taken as `noise`, which falls with seeds and
    with items, so projections are lower bounds.
    """

    items: float
    noise: float
    seeds: float
    runs: int
    per_task: float
    item_freedom: float
    alike: Alike | None = None

    def projected(self, mean: float, seeds: int, more_items: float = 1.0) -> Estimate:
        """The expected estimate of `mean_over_tasks` with `seeds` seeds and `more_items` times the items."""
        noise = self.noise / (seeds * more_items)
        parts = [(self.items / more_items + noise, self.item_freedom * more_items)]
        if seeds > 1 and self.runs > 1:
            parts.append((self.seeds / seeds + noise, seeds - 1.0))
        total = sum(part for part, _ in parts)
        if not total:
            more = self.alike and replace(self.alike, items=self.alike.items * more_items)
            return Estimate(mean, None, seeds, alike=more)
        freedom = total**2 / sum(part**2 / df for part, df in parts)
        return Estimate(mean, None, seeds, float(np.sqrt(total)), float(freedom))


def spread(tasks: Sequence[NDArray[np.float64]], span: Span | None = None) -> Spread | None:
    """Variance components of paired differences; None if a task has one item.

    Two-way ANOVA without replication for each task: the residual after item and seed means is the noise, and
    is subtracted from the variances of both.

    Args:
        tasks: one array (runs, items) per task, as in `mean_over_tasks`.
        span: limits of the differences, if they have any.
    """
    runs = tasks[0].shape[0]
    if any(task.shape[1] < 2 for task in tasks):
        return None
    weight = len(tasks) ** 2
    own = [variance(task.mean(axis=0)) / task.shape[1] / weight for task in tasks]
    freedoms = [task.shape[1] - 1 for task in tasks]
    total = sum(own)
    item_freedom = (
        total**2 / sum(part**2 / df for part, df in zip(own, freedoms, strict=True)) if total else 1
    )
    same = alike(tasks, span)
    per_task = float(np.mean([task.shape[1] for task in tasks]))
    if runs == 1:
        return Spread(0.0, float(total), 0.0, 1, per_task, float(item_freedom), same)
    noise = sum(_residual_variance(task) / task.shape[1] / weight for task in tasks)
    means = np.mean([task.mean(axis=1) for task in tasks], axis=0)
    return Spread(
        items=max(0.0, float(total - noise / runs)),
        noise=float(noise),
        seeds=max(0.0, variance(means) - noise),
        runs=runs,
        per_task=per_task,
        item_freedom=float(item_freedom),
        alike=same,
    )


def _residual_variance(task: NDArray[np.float64]) -> float:
    residual = task - task.mean(axis=0, keepdims=True) - task.mean(axis=1, keepdims=True) + task.mean()
    return float((residual**2).sum() / ((task.shape[0] - 1) * (task.shape[1] - 1)))
