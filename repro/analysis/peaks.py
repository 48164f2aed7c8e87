"""Where a sweep's curves are highest, how wide their tops are, and how far apart: each method at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from repro.analysis.finished import ByColumn, are_accuracies, items_of, runs_by_column
from repro.analysis.paired import paired_difference
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
        label: the curve's label.
        row: the row at the peak.
        points: how many values of x have finished runs.
        best: the value of x with the highest average, or with the highest score in the sweep's column.
        score: that average or score, with its interval over items and seeds, of the seeds that all points of
            the curve have. As the highest of several it is biased upwards.
        seeds_best: the best value of x of each seed alone, by seed.
        plateau: lowest and highest value of x without a gap around the best at which the average is less than
            `PLATEAU` points, or one standard error of the paired difference if that is more, below the peak.
        low_end, high_end: whether the plateau reaches the end of the tried values, so that it may be wider.
        difference: the peak minus LoRA's, or without a curve `lora` the first one's, paired by item and seed;
            None for that curve.
    """

    label: str
    row: PlannedRow
    points: int
    best: float
    score: Estimate
    seeds_best: Mapping[int, float]
    plateau: tuple[float, float]
    low_end: bool
    high_end: bool
    difference: Estimate | None

    @property
    def width(self) -> float | None:
        """The plateau's highest value of x over its lowest; None where that is 0 or below."""
        low, high = self.plateau
        return high / low if low > 0 else None


def peaks(plan: Plan, states: Sequence[RunState]) -> list[Peak]:
    """The peaks of a sweep's curves, in the order of its file; curves with fewer than three points have none.

    Rows that do not vary, such as the untrained model, are no curves.
    """
    results = {state.spec.hash: state.result for state in states}
    found = []
    for block in dict.fromkeys(row.block for row in plan.rows):
        rows = [row for row in plan.rows if row.block == block]
        curves = {
            curve: points
            for curve in dict.fromkeys(row.curve for row in rows if row.curve is not None)
            if len(points := _points([row for row in rows if row.curve == curve], plan, results)) > 2
        }
        tops = {curve: max(points, key=lambda point: point.score.mean) for curve, points in curves.items()}
        other = "lora" if "lora" in tops else next(iter(tops), None)
        for curve, points in curves.items():
            top = tops[curve]
            low, high = _plateau(points, top)
            found.append(
                Peak(
                    label=top.row.label.rpartition(",")[0],  # a point's label ends in the value that varies
                    row=top.row,
                    points=len(points),
                    best=top.x,
                    score=top.score,
                    seeds_best=_seeds_best(points),
                    plateau=(low, high),
                    low_end=low == points[0].x,
                    high_end=high == points[-1].x,
                    difference=None if curve == other else _difference(top, tops[str(other)]),
                )
            )
    return found


@dataclass(frozen=True)
class _Point:
    x: float
    row: PlannedRow
    runs: ByColumn
    score: Estimate
    by_seed: Mapping[int, float]


def _points(rows: Sequence[PlannedRow], plan: Plan, results: Mapping[str, Result | None]) -> list[_Point]:
    """The points of a curve in the order of x: those of which a seed has a score in every column.

    On the seeds that all of them have: a seed that is good everywhere would lift the points that have it.
    """
    sweep = plan.experiment.sweep
    assert sweep is not None
    finished = []
    for row in rows:
        runs = runs_by_column(row, results)
        if sweep.column is not None:
            runs = {column: by_seed for column, by_seed in runs.items() if column == sweep.column}
        own = set.intersection(*map(set, runs.values())) if runs else set()
        if own:
            finished.append((row, runs, own))
    seeds = sorted(set.intersection(*(own for _, _, own in finished))) if finished else []
    points = (_point(row, runs, seeds, sweep.x) for row, runs, _ in finished) if seeds else ()
    return sorted((point for point in points if point is not None), key=lambda point: point.x)


def _point(row: PlannedRow, runs: ByColumn, seeds: Sequence[int], x: str) -> _Point | None:
    """A row's point from these seeds; None if they were tested on different numbers of items."""
    shared = {column: {seed: by_seed[seed] for seed in seeds} for column, by_seed in runs.items()}
    done = {column: list(by_seed.values()) for column, by_seed in shared.items()}
    if any(len(items_of(own, column)) > 1 for column, own in done.items()):
        return None
    tasks = [outcomes_array([r.scores[column].outcomes for r in own]) for column, own in done.items()]
    span = ACCURACIES if all(are_accuracies(own, column) for column, own in done.items()) else None
    return _Point(
        x=float(flatten(row.specs[0].model_dump(mode="json"))[x]),
        row=row,
        runs=shared,
        score=mean_over_tasks(tasks, span),
        by_seed=dict(zip(seeds, np.mean([task.mean(axis=1) for task in tasks], axis=0), strict=True)),
    )


def _difference(one: _Point, other: _Point) -> Estimate | None:
    return paired_difference(one.runs, other.runs, list(one.runs))


def _plateau(points: Sequence[_Point], top: _Point) -> tuple[float, float]:
    """The lowest and the highest x of the plateau around the peak; see `Peak`."""

    def is_on_it(point: _Point) -> bool:
        below = _difference(top, point)
        allowed = max(PLATEAU, (below.error or 0.0) if below else 0.0)
        return top.score.mean - point.score.mean < allowed

    place = points.index(top)
    upwards = [point.x for point in takewhile(is_on_it, points[place + 1 :])]
    downwards = [point.x for point in takewhile(is_on_it, reversed(points[:place]))]
    return min([top.x, *downwards]), max([top.x, *upwards])


def _seeds_best(points: Sequence[_Point]) -> dict[int, float]:
    """The best x of each seed; all points have the same seeds."""
    return {seed: max(points, key=lambda point: point.by_seed[seed]).x for seed in points[0].by_seed}
