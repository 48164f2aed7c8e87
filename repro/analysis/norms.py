"""Gain over the untrained model against the size of the update, ||dW|| / ||W0||: better, or only larger?

Both norms are Frobenius norms over all adapted layers together, at the end of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from repro.analysis.damaged_files import usable
from repro.analysis.finished import ByColumn, runs_by_column
from repro.analysis.paired import paired_difference
from repro.analysis.statistics import Estimate
from repro.plans.plan import Plan, PlannedRow
from repro.plans.spec import canonical_json
from repro.runs.norms import known_norm
from repro.runs.result import Result
from repro.runs.states import RunState
from repro.runs.store import Store

NEAR = 1.5
"""Two norms are near each other if none is more than this factor above the other."""


@dataclass(frozen=True)
class NormPoint:
    """One row of a table, or one point of a sweep.

    Attributes:
        experiment: the first experiment that has it.
        planned: the row.
        curve: experiment, block and id of the varying row; None of a row that is no point of a curve.
        norm, spread: mean of ||dW|| / ||W0|| over the seeds, and the smallest and largest of them.
        gain: average over tasks less the untrained model's, in points, paired by item.
        runs: finished runs by column and seed.
        turned: of Dual LoRA, the share of signs that differ from step 0 after training, a mean over layers
            and seeds; None without diagnostics.
        near: of a row that is not LoRA, the LoRA point with the nearest norm on the same items, if it is
            `NEAR`; its gain subtracted from this one's, paired by item and seed, is `difference`.
    """

    experiment: str
    planned: PlannedRow
    curve: tuple[str, str, str] | None
    norm: float
    spread: tuple[float, float]
    gain: Estimate
    runs: ByColumn
    turned: float | None = None
    near: NormPoint | None = None
    difference: Estimate | None = None


def norm_points(
    plans: Mapping[str, Plan], states: Mapping[str, Sequence[RunState]], store: Store
) -> list[NormPoint]:
    """A point for every row with finished runs, a stored norm, and an untrained model tested on its items.

    Rows that differ in their seeds alone are one point, that with most runs. Only of families whose tables
    have an average, and without what `damaged_files` names.
    """
    results = {s.spec.hash: s.result for found in states.values() for s in found}
    bases = list(_untrained(plans, results))
    found: dict[str, NormPoint] = {}
    # A row's name in a table is more telling than its place in a sweep.
    for name in sorted(plans, key=lambda name: not name.startswith("table")):
        for row in plans[name].rows:
            spec = row.specs[0]
            if not spec.method.trains or not type(spec.benchmark).averaged:
                continue
            point = _point(name, row, results, bases, store)
            if point is None:
                continue
            key = canonical_json(spec.model_copy(update={"seed": 0}))
            known = found.get(key, point)
            most = point if point.gain.runs > known.gain.runs else known
            found[key] = replace(most, curve=known.curve or point.curve)
    points = list(found.values())
    lora = [point for point in points if point.planned.specs[0].method.name == "lora"]
    return [point if point in lora else _beside(point, lora) for point in points]


def _untrained(
    plans: Mapping[str, Plan], results: Mapping[str, Result | None]
) -> Iterator[tuple[str, Result]]:
    """Results of untrained models, each with its model."""
    for plan in plans.values():
        for row in plan.rows:
            result = results.get(row.specs[0].hash)
            if not row.specs[0].method.trains and result is not None:
                yield row.block, result


def _point(
    name: str,
    row: PlannedRow,
    results: Mapping[str, Result | None],
    bases: Iterable[tuple[str, Result]],
    store: Store,
) -> NormPoint | None:
    norms = [
        norm.relative
        for spec in row.specs
        if results.get(spec.hash) is not None
        and (norm := usable(partial(known_norm, spec, store))) is not None
    ]
    if not norms or min(norms) == 0:  # the axis is logarithmic
        return None
    runs = runs_by_column(row, results)
    columns = list(runs)
    for block, base in bases:
        if block != row.block or any(column not in base.scores for column in columns):
            continue
        before = {column: dict.fromkeys(by_seed, base) for column, by_seed in runs.items()}
        gain = paired_difference(runs, before, columns)  # None where the items are others
        if gain is not None:
            curve = None if row.curve is None else (name, row.block, row.curve)
            spread = min(norms), max(norms)
            return NormPoint(name, row, curve, fmean(norms), spread, gain, runs, _turned(row, results, store))
    return None


def _turned(row: PlannedRow, results: Mapping[str, Result | None], store: Store) -> float | None:
    shares = [
        share
        for spec in row.specs
        if results.get(spec.hash) is not None
        and (diagnostics := usable(partial(store.diagnostics, spec))) is not None
        for series in diagnostics.layers.values()
        if (share := series.get("flipped", (None,))[-1]) is not None
    ]
    return fmean(shares) if shares else None


def _beside(point: NormPoint, lora: Sequence[NormPoint]) -> NormPoint:
    """The point with the LoRA point of the nearest norm, among those that were tested on its items."""
    for other in sorted(lora, key=lambda other: abs(math.log(other.norm / point.norm))):
        if max(other.norm / point.norm, point.norm / other.norm) > NEAR:
            break
        if other.planned.block == point.planned.block:
            difference = paired_difference(point.runs, other.runs, list(point.runs))
            if difference is not None:
                return replace(point, near=other, difference=difference)
    return point
