"""Which finished runs give a column its number: those with a score, by row, column and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from repro.plans.plan import PlannedRow
from repro.runs.result import Result

ByColumn = Mapping[str, Mapping[int, Result]]
"""Finished runs of a row, by column and seed."""


def runs_by_column(row: PlannedRow, results: Mapping[str, Result | None]) -> ByColumn:
    """A row's finished runs with a finite score of at least one item in the column; `results` by hash."""
    return {column: _by_seed(row, column, results) for column in row.columns}


def _by_seed(row: PlannedRow, column: str, results: Mapping[str, Result | None]) -> dict[int, Result]:
    found = {spec.seed: results.get(spec.hash) for spec in row.specs_for(column)}
    return {
        seed: result for seed, result in found.items() if result is not None and _is_scored(result, column)
    }


def _is_scored(result: Result, column: str) -> bool:
    score = result.scores.get(column)
    if score is None or score.value is None or not score.outcomes:
        return False
    return isinstance(score.outcomes, str) or all(map(isfinite, score.outcomes))


def same_items(results: Sequence[Result], column: str) -> bool:
    """Whether runs were tested on the same items of a column, so that these can be paired."""
    data = {result.data_fingerprints.get("test") for result in results}
    return len(data) == 1 and len(items_of(results, column)) == 1


def items_of(results: Sequence[Result], column: str) -> set[int]:
    """The numbers of items that runs were tested on in a column."""
    return {len(result.scores[column].outcomes) for result in results}


def are_accuracies(results: Sequence[Result], column: str) -> bool:
    """Whether every item of a column is right or wrong, in all runs."""
    return all(isinstance(result.scores[column].outcomes, str) for result in results)
