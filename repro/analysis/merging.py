"""What merging costs in score: finished runs against the tests of the same adapters without merging."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np

from repro.analysis.damaged_files import usable
from repro.analysis.finished import ByColumn, runs_by_column
from repro.analysis.measures import Measure, measured
from repro.analysis.paired import paired_difference
from repro.analysis.paper import AVERAGE
from repro.analysis.statistics import Estimate
from repro.plans.plan import Plan, PlannedRow
from repro.runs.known_unmerged import known_unmerged
from repro.runs.result import Result
from repro.runs.states import RunState
from repro.runs.store import Store


@dataclass(frozen=True)
class Pair:
    """A measure with and without merging, as means over the same tasks, items and seeds.

    `difference` is merged minus unmerged, paired by item and seed: negative where merging costs something.
    `identical` says that no item of any seed changed.
    """

    merged: float
    unmerged: float
    difference: Estimate
    identical: bool


@dataclass(frozen=True)
class MergingCost:
    """What merging did to a row.

    Attributes:
        column: `AVERAGE`, or a column of a family without an average.
        score: in the column's unit.
        probability: of the gold answers in percent; None of a column without it.
        lost: mean over layers and seeds of the share of dW that merging loses in the run's precision, see
            `Diagnostics.merge_errors`; None where no run has diagnostics.
        most_lost: the largest of these shares.
    """

    row: PlannedRow
    column: str
    score: Pair
    probability: Pair | None
    lost: float | None
    most_lost: float | None


def merging_costs(plan: Plan, states: Sequence[RunState], store: Store) -> list[MergingCost]:
    """The rows with runs tested both ways in all columns, without what `damaged_files` names."""
    merged: dict[str, Result] = {}
    unmerged: dict[str, Result] = {}
    for state in states:
        if state.result is None:
            continue
        found = usable(partial(known_unmerged, state.spec, state.result, store))
        if found is not None:
            merged[state.spec.hash] = state.result
            unmerged[state.spec.hash] = state.result.model_copy(update={"scores": found.scores})
    return [cost for row in plan.rows for cost in _of_row(row, merged, unmerged, store)]


def _of_row(
    row: PlannedRow, merged: dict[str, Result], unmerged: dict[str, Result], store: Store
) -> Iterator[MergingCost]:
    one, other = runs_by_column(row, merged), runs_by_column(row, unmerged)
    family, every = type(row.specs[0].benchmark), list(row.columns)
    for column, columns in {AVERAGE: every}.items() if family.averaged else [(c, [c]) for c in every]:
        score = _pair(one, other, columns, "score")
        if score is None:
            continue
        sharp = [c for c in columns if c in family.gold_columns()]
        shares = _shares_lost(row, merged, store)
        yield MergingCost(
            row=row,
            column=column,
            score=score,
            probability=_pair(one, other, sharp, "probability") if sharp else None,
            lost=fmean(shares) if shares else None,
            most_lost=max(shares, default=None),
        )


def _pair(one: ByColumn, other: ByColumn, columns: Sequence[str], measure: Measure) -> Pair | None:
    difference = paired_difference(one, other, columns, measure)
    if difference is None:
        return None
    seeds = sorted(set.intersection(*(set(runs[column]) for runs in (one, other) for column in columns)))
    merged, unmerged = (
        [measured([runs[column][seed] for seed in seeds], column, measure) for column in columns]
        for runs in (one, other)
    )
    return Pair(
        merged=fmean(float(values.mean()) for values in merged),
        unmerged=fmean(float(values.mean()) for values in unmerged),
        difference=difference,
        identical=all(map(np.array_equal, merged, unmerged)),
    )


def _shares_lost(row: PlannedRow, merged: dict[str, Result], store: Store) -> list[float]:
    """Of every adapted layer and seed."""
    return [
        errors[spec.training.precision]
        for spec in row.specs
        if spec.hash in merged and (found := usable(partial(store.diagnostics, spec))) is not None
        for errors in found.merge_errors.values()
        if spec.training.precision in errors
    ]
