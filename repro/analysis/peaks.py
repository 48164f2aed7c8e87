"""Where a sweep's curves are highest, how wide their tops are, and how far apart: each method at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.analysis.claims import paired_difference
from repro.analysis.finished import ByColumn, runs_by_column
from repro.analysis.statistics import ACCURACIES, Estimate, mean_over_tasks, outcomes_array
from repro.plans.plan import Plan, PlannedRow
from repro.plans.spec import flatten
from repro.runs.result import Result
from repro.runs.states import RunState

PLATEAU = 1.0
"""Points below the peak down to which a curve is on its plateau, or one standard error if that is more."""


@dataclass(frozen=True)
class Peak:
    """The top of one curve.

    Attributes:
        curve: id of the row that varies.
        label: the curve's label.
        points: how many values of x have finished runs.
        best: the value of x with the highest average.
        score: that average, with its interval over items and seeds. As the highest of several it is biased
            upwards.
        seeds_best: the best value of x of each seed alone, by seed.
        plateau: lowest and highest value of x without a gap around the best at which the average is less than
            `PLATEAU` points, or one standard error of the paired difference if that is more, below the peak.
        low_end, high_end: whether the plateau reaches the end of the tried values, so that it may be wider.
        difference: the peak minus that of the first curve, paired by item and seed; None for the first.
    """

    curve: str
    label: str
    points: int
    best: float
    score: Estimate
    seeds_best: Mapping[int, float]
    plateau: tuple[float, float]
    low_end: bool
    high_end: bool
    difference: Estimate | None

    @property
    def width(self) -> float:
        """The plateau's highest value of x over its lowest."""
        return self.plateau[1] / self.plateau[0]


def peaks(plan: Plan, states: Sequence[RunState]) -> list[Peak]:
    """The peaks of a sweep's curves, in the order of its file; curves with fewer than three points have none.

    A row that does not vary, such as the untrained model, is no curve.
    """
    results = {state.spec.hash: state.result for state in states}
    found: list[Peak] = []
    first: ByColumn | None = None
    for (block, curve), rows in _curves(plan).items():
        points = _points(rows, plan, results)
        if len(points) < 3:
            continue
        best = max(points, key=lambda x: points[x].score.mean)
        top = points[best]
        difference = None if first is None else paired_difference(top.runs, first, list(top.runs))
        first = first or top.runs
        low, high = _plateau(points, best)
        tried = sorted(points)
        found.append(
            Peak(
                curve=curve,
                label=rows[0].label.rpartition(",")[0],  # a point's label ends in the value that varies
                points=len(points),
                best=best,
                score=top.score,
                seeds_best=_seeds_best(points),
                plateau=(low, high),
                low_end=low == tried[0],
                high_end=high == tried[-1],
                difference=difference,
            )
        )
    return found


@dataclass(frozen=True)
class _Point:
    runs: ByColumn
    score: Estimate
    by_seed: Mapping[int, float]


def _curves(plan: Plan) -> dict[tuple[str, str], list[PlannedRow]]:
    curves: dict[tuple[str, str], list[PlannedRow]] = {}
    for row in plan.rows:
        if row.curve is not None:
            curves.setdefault((row.block, row.curve), []).append(row)
    return curves


def _points(
    rows: Sequence[PlannedRow], plan: Plan, results: Mapping[str, Result | None]
) -> dict[float, _Point]:
    """The points of a curve by x: those of which at least one seed has a score in every column."""
    sweep = plan.experiment.sweep
    assert sweep is not None
    found = {}
    for row in rows:
        runs = runs_by_column(row, results)
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in runs.values())))
        if not seeds:
            continue
        tasks = [outcomes_array([runs[c][seed].scores[c].outcomes for seed in seeds]) for c in runs]
        x = float(flatten(row.specs[0].model_dump(mode="json"))[sweep.x])
        by_seed = {
            seed: float(sum(task[i].mean() for task in tasks) / len(tasks)) for i, seed in enumerate(seeds)
        }
        found[x] = _Point(runs, mean_over_tasks(tasks, ACCURACIES), by_seed)
    return found


def _plateau(points: Mapping[float, _Point], best: float) -> tuple[float, float]:
    tried = sorted(points)
    top = points[best]

    def on_plateau(x: float) -> bool:
        if x == best:
            return True
        below = paired_difference(top.runs, points[x].runs, list(top.runs))
        allowed = max(PLATEAU, (below.error or 0.0) if below else 0.0)
        return top.score.mean - points[x].score.mean < allowed

    place = tried.index(best)
    low, high = place, place
    while low > 0 and on_plateau(tried[low - 1]):
        low -= 1
    while high < len(tried) - 1 and on_plateau(tried[high + 1]):
        high += 1
    return tried[low], tried[high]


def _seeds_best(points: Mapping[float, _Point]) -> dict[int, float]:
    """Of the seeds that all points have."""
    seeds = set.intersection(*(set(point.by_seed) for point in points.values()))
    return {seed: max(points, key=lambda x: points[x].by_seed[seed]) for seed in sorted(seeds)}
