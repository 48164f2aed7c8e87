"""The paper's statements, checked against the numbers of its own tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import sqrt
from typing import Literal

from repro.analysis.facts import matches, size_holds
from repro.analysis.ledger import Claim, Comparison, Ledger, Sizes
from repro.analysis.paper import AVERAGE, PaperRow, paper_rows, published_spreads

# Times the standard deviation over seeds: 95 % of differences between two runs are smaller.
_TWO_RUNS = 1.96 * sqrt(2)

PaperVerdict = Literal["supported", "not supported", "no number"]


@dataclass(frozen=True)
class PrintedPair:
    """Two printed rows of one block.

    Attributes:
        column: the compared column; `avg` is the printed average, or the mean over the tasks of both rows.
        difference: better minus worse, in exact decimals; for sizes, both sizes as text.
        holds: whether the difference agrees with the statement.
        by_seeds: bound on the difference of two runs that differ by seed alone (95 %), from the published
            spread of this column; None if no spread is published.
    """

    block: str
    better: str
    worse: str
    column: str
    difference: Decimal | str
    holds: bool
    by_seeds: float | None = None

    @property
    def within_seeds(self) -> bool:
        """Whether it holds, but by less than `by_seeds`."""
        return (
            self.holds
            and self.by_seeds is not None
            and isinstance(self.difference, Decimal)
            and float(self.difference) < self.by_seeds
        )


@dataclass(frozen=True)
class OnPaper:
    """A claim with the pairs of printed rows that it is about."""

    claim: Claim
    pairs: tuple[PrintedPair, ...]

    @property
    def verdict(self) -> PaperVerdict:
        if not self.pairs:
            return "no number"
        return "supported" if all(pair.holds for pair in self.pairs) else "not supported"


def claims_on_paper(ledger: Ledger) -> list[OnPaper]:
    """Every claim of the ledger, in its order."""
    compared = {test.experiment for claim in ledger.claims for test in claim.comparisons}
    counted = {test.experiment for claim in ledger.claims for test in claim.sizes}
    tables = {name: paper_rows(name) for name in compared | counted}
    spreads = published_spreads()
    return [OnPaper(claim, tuple(_pairs(claim, tables, spreads))) for claim in ledger.claims]


def _pairs(
    claim: Claim,
    tables: Mapping[str, Sequence[PaperRow]],
    spreads: Mapping[tuple[str, str], Mapping[str, float]],
) -> Iterator[PrintedPair]:
    def about(table: str) -> list[PaperRow]:
        return [row for row in tables[table] if not claim.models or row.block in claim.models]

    for comparison in claim.comparisons:
        yield from _compared(comparison, about(comparison.experiment), spreads)
    for sizes in claim.sizes:
        yield from _sizes(sizes, about(sizes.experiment))


def _compared(
    comparison: Comparison,
    rows: Sequence[PaperRow],
    spreads: Mapping[tuple[str, str], Mapping[str, float]],
) -> Iterator[PrintedPair]:
    for better in (row for row in rows if matches(row.row, comparison.better)):
        for worse in (row for row in rows if matches(row.row, comparison.worse)):
            if better.block != worse.block or better.row == worse.row:
                continue
            if comparison.size != "any" and not comparison.admits(*map(float, _params(better, worse))):
                continue
            for column in comparison.columns or (AVERAGE,):
                difference = printed_difference(better, worse, column)
                if difference is None:
                    continue
                # Exact decimals: in floating point 87.5 - 86.7 is not 0.8.
                bounds = Decimal(str(comparison.at_least)), Decimal(str(comparison.at_most or "Infinity"))
                above = difference >= bounds[0] if bounds[0] else difference > 0
                yield PrintedPair(
                    better.block,
                    better.label,
                    worse.label,
                    column,
                    difference,
                    holds=above and difference <= bounds[1],
                    by_seeds=_by_seeds(spreads.get((better.table, better.block), {}), better, worse, column),
                )


def printed_difference(better: PaperRow, worse: PaperRow, column: str) -> Decimal | None:
    """Difference of a printed column; if an average is missing, of the means over the common tasks."""
    numbers = better.number(column), worse.number(column)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] - numbers[1]
    common = [better.tasks[task] - worse.tasks[task] for task in better.tasks if task in worse.tasks]
    return sum(common, Decimal(0)) / len(common) if column == AVERAGE and common else None


def _by_seeds(spread: Mapping[str, float], better: PaperRow, worse: PaperRow, column: str) -> float | None:
    if column != AVERAGE:
        return _TWO_RUNS * spread[column] if column in spread else None
    tasks = [task for task in better.tasks if task in worse.tasks]
    if not tasks or any(task not in spread for task in tasks):
        return None
    return _TWO_RUNS * sqrt(sum(spread[task] ** 2 for task in tasks)) / len(tasks)


def _sizes(sizes: Sizes, rows: Sequence[PaperRow]) -> Iterator[PrintedPair]:
    for row in (row for row in rows if matches(row.row, sizes.rows)):
        if sizes.percent_below is not None:
            # A column in millions has no percentage.
            if row.table in _IN_PERCENT:
                holds = float(row.params) < sizes.percent_below
                yield PrintedPair(
                    row.block, row.label, f"{sizes.percent_below:g} %", "params", f"{row.params} %", holds
                )
            continue
        for other in rows:
            if other.block == row.block and other.row != row.row and matches(other.row, sizes.than):
                assert sizes.relation is not None
                own, than = _params(row, other)
                yield PrintedPair(
                    row.block,
                    row.label,
                    other.label,
                    "params",
                    f"{row.params} against {other.params}",
                    size_holds(sizes.relation, float(own), float(than)),
                )


_IN_PERCENT = {"table1", "table3", "table5"}


def _params(*rows: PaperRow) -> list[Decimal]:
    return [Decimal(row.params) for row in rows]
