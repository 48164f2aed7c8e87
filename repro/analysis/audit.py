"""The audit of the paper: checks recomputed from its tables and sources, and findings from reading it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import combinations, groupby
from pathlib import Path
from typing import Literal

from repro.analysis.paper import AVERAGE, PaperRow, SourceRow, paper_rows, source_rows
from repro.config import Frozen, load_yaml
from repro.paths import PAPER

TABLES = ("table1", "table2", "table3", "table4", "table5", "table6")
"""The tables of the paper."""

# Two rows of one base model with at least this share of equal cells are reported as copied. All other pairs
# have at most three of eight cells in common.
_COPIED = 0.5

AuditKind = Literal["average", "parameters", "source", "bold", "contradiction", "ambiguity"]


class Entry(Frozen):
    """A row of the paper's tables whose printed parameter count an audit item explains."""

    table: str
    block: str
    row: str


class AuditItem(Frozen):
    """One finding.

    Attributes:
        kind: see the head of `results/paper/audit.yaml`.
        where: the place in the paper.
        found: what is wrong or missing there.
        source: the other work that shows it, if any.
        here: what this project does about it.
        rows: the table rows concerned, for printed parameter counts.
    """

    kind: AuditKind
    where: str
    found: str
    here: str
    source: str = ""
    rows: tuple[Entry, ...] = ()


class Audit(Frozen):
    """The file `results/paper/audit.yaml`."""

    items: tuple[AuditItem, ...]


@cache
def audit_items() -> tuple[AuditItem, ...]:
    """Every item, in the order of the file."""
    return load_yaml(PAPER / "audit.yaml", Audit).items


def explanation(table: str, block: str, row: str) -> AuditItem | None:
    """The item about the printed parameter count of a row; None if there is none."""
    entry = Entry(table=table, block=block, row=row)
    return next((item for item in audit_items() if entry in item.rows), None)


@dataclass(frozen=True)
class Average:
    """A printed average next to the mean of its row's cells, in exact decimals.

    `verdict` is `boundary` if the mean is half way between two roundings, so that either is right.
    """

    row: PaperRow
    printed: Decimal
    mean: Decimal
    verdict: Literal["equal", "boundary", "differs"]


def averages(folder: Path = PAPER) -> Iterator[Average]:
    """Every row of the paper that prints an average and at least two tasks."""
    for row in _rows(folder):
        printed, tasks = row.number(AVERAGE), row.tasks
        if printed is None or len(tasks) < 2:
            continue
        mean = sum(tasks.values(), Decimal(0)) / len(tasks)
        yield Average(row, printed, mean, _verdict(printed, mean))


def _verdict(printed: Decimal, mean: Decimal) -> Literal["equal", "boundary", "differs"]:
    step = _step(printed)
    if mean.quantize(step, ROUND_HALF_UP) == printed:
        return "equal"
    return "boundary" if abs(mean - printed) * 2 == step else "differs"


def _step(printed: Decimal) -> Decimal:
    """One unit in the last printed digit."""
    return Decimal(1).scaleb(printed.as_tuple().exponent)  # type: ignore[arg-type]


@dataclass(frozen=True)
class FromSource:
    """A row of the paper next to the work that it was copied or rerun from.

    Attributes:
        compared: number of cells that both print.
        differing: cells that differ by more than rounding, by column: (paper, source).
    """

    row: PaperRow
    source: SourceRow
    compared: int
    differing: Mapping[str, tuple[Decimal, Decimal]]


def sources(folder: Path = PAPER) -> Iterator[FromSource]:
    """Every row of `sources.csv` next to the paper's row."""
    printed = {(row.table, row.block, row.row): row for row in _rows(folder)}
    for source in source_rows(folder):
        row = printed[source.table, source.block, source.row]
        both = {
            column: (number, Decimal(text))
            for column, text in source.values.items()
            if (number := row.number(column)) is not None
        }
        differing = {
            column: (ours, theirs)
            for column, (ours, theirs) in both.items()
            if 2 * abs(ours - theirs) > max(_step(ours), _step(theirs))
        }
        yield FromSource(row, source, len(both), differing)


@dataclass(frozen=True)
class Bold:
    """A column of one base model whose bold values are not its highest values.

    Attributes:
        bold, best: values by row label, of the rows printed bold and of the rows with the highest value.
    """

    table: str
    block: str
    column: str
    bold: Mapping[str, Decimal]
    best: Mapping[str, Decimal]


def bold_errors(folder: Path = PAPER) -> Iterator[Bold]:
    """Every column whose bold values are not its highest; in all of the paper's metrics higher is better."""
    for (table, block), rows in _blocks(folder):
        for column in rows[0].values:
            numbers = {row.label: number for row in rows if (number := row.number(column)) is not None}
            bold = {row.label: numbers[row.label] for row in rows if column in row.bold}
            highest = max(numbers.values())
            best = {label: number for label, number in numbers.items() if number == highest}
            if bold and bold != best:
                yield Bold(table, block, column, bold, best)


@dataclass(frozen=True)
class Copied:
    """Two rows of one base model with many equal cells, not counting the average."""

    one: PaperRow
    other: PaperRow
    equal: tuple[str, ...]
    compared: int


def copied_rows(folder: Path = PAPER) -> Iterator[Copied]:
    """Every pair of rows of one base model with at least half of their cells equal."""
    for _, rows in _blocks(folder):
        for one, other in combinations(rows, 2):
            both = [task for task in one.tasks if task in other.tasks]
            equal = tuple(task for task in both if one.tasks[task] == other.tasks[task])
            if both and len(equal) >= _COPIED * len(both):
                yield Copied(one, other, equal, len(both))


def _rows(folder: Path) -> Iterator[PaperRow]:
    for table in TABLES:
        yield from paper_rows(table, folder)


def _blocks(folder: Path) -> Iterator[tuple[tuple[str, str], Sequence[PaperRow]]]:
    for place, rows in groupby(_rows(folder), key=lambda row: (row.table, row.block)):
        yield place, list(rows)
