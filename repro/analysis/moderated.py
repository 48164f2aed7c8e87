"""Seeds' variance of a comparison moderated by that of other rows, since two or three seeds say little of it.

As in the moderated t (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3, 3): rows' variances over seeds have a
scaled inverse chi-squared prior, fitted to all rows, and a comparison's own variance is shrunk towards it.
Deviations on the safe side are named at `prior` and `moderated`; docs/statistics.md has simulations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, polygamma

from repro.analysis.finished import ByColumn, runs_by_column
from repro.analysis.measures import Measure, has_measure, measured
from repro.analysis.statistics import Spread
from repro.plans.plan import Plan, PlannedRow
from repro.runs.states import RunState

SeedMeans = Mapping[int, float]
"""A row's mean over columns and items, by seed."""

# Degrees of freedom that a comparison borrows at most, for each of its own.
_MOST = 2.0
# Of Cochran's test, as in ISO 5725-2 for laboratories whose variance is not that of the others.
_OUTLYING = 0.01


@dataclass(frozen=True)
class Prior:
    """What rows say of the seeds' variance of the difference of any two, for one seed.

    Rows that vary far more than the others are left out and borrow nothing, see `outlying`.

    Attributes:
        variance: its scale, s0^2, in squared units of the measure.
        freedom: its degrees of freedom, d0.
    """

    variance: float
    freedom: float


def prior(rows: Sequence[SeedMeans]) -> Prior | None:
    """The prior of rows' means by seed; None with fewer than three rows of two common seeds.

    Each row's variance is that of its residuals after the means of rows and of seeds. d0 is from the variance
    of their logarithms, as Smyth's: trigamma(d0 / 2) is what is in excess of chance, trigamma((S - 1) / 2).
    d0 is at most the degrees of freedom of all residuals without one row's. The scale is the pooled variance,
    which is above Smyth's geometric one, and less noisy with two or three seeds.
    """
    table, _ = _widest(rows)
    count, seeds = table.shape
    if count < 3 or seeds < 2:
        return None
    own = _variances(table)
    if own.min() < 1e-9:  # no more than rounding, of which the logarithm says nothing
        return None
    excess = float(np.log(own).var(ddof=1) - polygamma(1, (seeds - 1) / 2))
    return Prior(2 * float(own.mean()), _freedom(excess, (count - 2.0) * (seeds - 1)))


def outlying(rows: Sequence[SeedMeans]) -> list[int]:
    """Places of rows whose variance over seeds is no chance, the largest first, until none is.

    Cochran's test at 1 %, of the largest variance against the others. Such is a row whose training goes
    astray; in the prior it would widen the interval of every comparison.
    """
    table, places = _widest(rows)
    found: list[int] = []
    while len(table) > 3 and table.shape[1] > 1:
        count, seeds = table.shape
        own = _variances(table)
        # Of the largest variance over the mean of the others.
        quantile = fdtri(seeds - 1, (count - 1) * (seeds - 1), 1 - _OUTLYING / count)
        largest = int(own.argmax())
        if (count - 1) * own[largest] <= quantile * (own.sum() - own[largest]):
            break
        found.append(places[largest])
        table, places = np.delete(table, largest, axis=0), places[:largest] + places[largest + 1 :]
    return found


def _variances(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row's residuals after the means of rows and of seeds."""
    count, seeds = table.shape
    residuals = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    variances: NDArray[np.float64] = (residuals**2).sum(axis=1) / (seeds - 1) * count / (count - 1)
    return variances


def _widest(rows: Sequence[SeedMeans]) -> tuple[NDArray[np.float64], list[int]]:
    """The table (rows, seeds) without gaps that has most residuals, and the places of its rows."""
    found = [
        (np.array([[rows[place][seed] for seed in sorted(seeds)] for place in places]), places)
        for seeds in dict.fromkeys(frozenset(row) for row in rows)
        if seeds and (places := [place for place, row in enumerate(rows) if seeds <= row.keys()])
    ]
    nothing: tuple[NDArray[np.float64], list[int]] = (np.empty((0, 0)), [])
    return max(found, key=lambda one: (one[0].shape[0] - 2) * (one[0].shape[1] - 1), default=nothing)


def _freedom(excess: float, most: float) -> float:
    """The root d of trigamma(d / 2) = `excess`, at most `most`."""
    if excess <= polygamma(1, most / 2):
        return most
    from scipy.optimize import brentq  # takes a moment to import, and only several seeds need it

    # trigamma(x) is above 1 / x^2.
    return float(brentq(lambda d: polygamma(1, d / 2) - excess, 2 / np.sqrt(excess), most))


def moderated(spread: Spread, found: Prior | None) -> Spread:
    """The spread with (d0 s0^2 + (S - 1) V) / (d0 + S - 1) in place of V, the variance of its S seeds' means.

    It is never below V: where a row varies more than others, borrowing must not hide it. d0 is at most twice
    S - 1. One seed, or items that are all alike, are left as they are.
    """
    own, variance = spread.runs - 1, spread.seeds + spread.noise
    if found is None or not own or not spread.items + variance:
        return spread
    borrowed = min(found.freedom, _MOST * own)
    shrunk = (borrowed * found.variance + own * variance) / (borrowed + own)
    return replace(spread, seeds=max(shrunk, variance) - spread.noise, borrowed=borrowed)


class Priors:
    """The priors of plans' finished rows: of a profile, family and base model, by measure and columns."""

    def __init__(self, plans: Mapping[str, Plan], states: Mapping[str, Mapping[str, RunState]]) -> None:
        self._rows: dict[tuple[str, str, str], dict[tuple[str, ...], ByColumn]] = {}
        for name, planned in plans.items():
            results = {spec_hash: state.result for spec_hash, state in states[name].items()}
            for row in planned.rows:
                if row.specs[0].method.trains:
                    # Experiments share rows, which count once.
                    rows = self._rows.setdefault(_scale(planned, row), {})
                    rows[row.hashes] = runs_by_column(row, results)
        self._of = cache(self._prior)

    def of(
        self, planned: Plan, rows: Sequence[PlannedRow], columns: Sequence[str], measure: Measure
    ) -> Prior | None:
        """The prior of a comparison of this plan's rows, as the mean over columns; None if one of
        them is outlying.
        """
        found, left_out = self._of(_scale(planned, rows[0]), tuple(columns), measure)
        return None if left_out & {row.hashes for row in rows} else found

    def _prior(
        self, scale: tuple[str, str, str], columns: tuple[str, ...], measure: Measure
    ) -> tuple[Prior | None, set[tuple[str, ...]]]:
        means = {
            runs: found
            for runs, row in self._rows.get(scale, {}).items()
            if len(found := seed_means(row, columns, measure)) > 1
        }
        left_out = {list(means)[place] for place in outlying(list(means.values()))}
        return prior([found for runs, found in means.items() if runs not in left_out]), left_out


def _scale(planned: Plan, row: PlannedRow) -> tuple[str, str, str]:
    return planned.profile.name, planned.experiment.family, row.block


def seed_means(row: ByColumn, columns: Sequence[str], measure: Measure) -> SeedMeans:
    """A row's means, on seeds that it has in all columns; empty if a run lacks the measure's numbers."""
    if not all(row.get(column) for column in columns):
        return {}
    seeds = sorted(set.intersection(*(set(row[column]) for column in columns)))
    if not all(has_measure([row[column][seed] for seed in seeds], column, measure) for column in columns):
        return {}
    return {
        seed: float(np.mean([measured([row[column][seed]], column, measure).mean() for column in columns]))
        for seed in seeds
    }
