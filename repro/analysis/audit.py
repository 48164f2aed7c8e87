"""What does not add up in the paper: recomputed from its cells and sources, and what reading it showed."""

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

# Two rows of one base model that have this share of their cells in common were not measured apart: of the
# other pairs none has more than three cells of eight in common.
_COPIED = 0.5

AuditKind = Literal["average", "parameters", "source", "bold", "contradiction", "ambiguity"]


class Entry(Frozen):
    """A row of the paper's tables, by its id, for an item that explains its printed parameter count."""

    table: str
    block: str
    row: str


class AuditItem(Frozen):
    """One thing that was found.

    Attributes:
        kind: see the head of `results/paper/audit.yaml`.
        where: the place in the paper.
        found: what is wrong or open there.
        source: the work that shows it, where it is another one.
        here: what this project does about it.
        rows: of printed parameter counts, the rows that they stand in.
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
    """A printed average and that of its row's own cells, in exact decimals.

    `verdict` is `equal`; `boundary` where the mean lies half way between two roundings, either of which is
    right; or `differs`.
    """

    row: PaperRow
    printed: Decimal
    mean: Decimal
    verdict: Literal["equal", "boundary", "differs"]


def averages(folder: Path = PAPER) -> Iterator[Average]:
    """Every row of the paper that prints an average beside its tasks."""
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
    """A row of the paper beside the work that it was taken from, or run again after.

    Attributes:
        compared: cells that both print.
        differing: those that differ by more than the paper's rounding: by column, paper and source.
    """

    row: PaperRow
    source: SourceRow
    compared: int
    differing: Mapping[str, tuple[Decimal, Decimal]]


def sources(folder: Path = PAPER) -> Iterator[FromSource]:
    """Every row of `sources.csv` beside the paper's."""
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
    """A column of one base model in which what is bold is not what is highest.

    Attributes:
        bold, best: labels of the rows that are printed bold, and of those that have the highest value.
    """

    table: str
    block: str
    column: str
    bold: Mapping[str, Decimal]
    best: Mapping[str, Decimal]


def bold_errors(folder: Path = PAPER) -> Iterator[Bold]:
    """Every such column. In all of the paper's metrics higher is better."""
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
    """Two rows of one base model that are equal in most of their cells, the average left out."""

    one: PaperRow
    other: PaperRow
    equal: tuple[str, ...]
    compared: int


def copied_rows(folder: Path = PAPER) -> Iterator[Copied]:
    """Every pair of rows that have half of their cells in common or more."""
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
