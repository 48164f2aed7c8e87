"""The paper's own numbers, from `results/paper/`. They are never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pandas as pd

from repro.config import ConfigError
from repro.paths import PAPER

AVERAGE = "avg"
"""The paper's column of averages."""


@dataclass(frozen=True)
class PaperRow:
    """A row as printed.

    Attributes:
        table, block, row: the table, the base model's name, and the row's id in `experiments/`.
        label, params: as printed; `params` in the table's unit, empty if the table has no such column.
        values: digits as printed, by column in the paper's order; empty for a dash.
        bold: columns whose value is printed bold.
    """

    table: str
    block: str
    row: str
    label: str
    params: str
    values: dict[str, str]
    bold: frozenset[str]

    def number(self, column: str) -> Decimal | None:
        """The value of a column; None for a dash or a missing column."""
        text = self.values.get(column, "")
        return Decimal(text) if text else None

    @property
    def tasks(self) -> dict[str, Decimal]:
        """The printed values of every column but the average."""
        found = {column: self.number(column) for column in self.values if column != AVERAGE}
        return {column: value for column, value in found.items() if value is not None}


def paper_rows(table: str, folder: Path = PAPER) -> list[PaperRow]:
    """The rows of a table of the paper, in its order; none if there is no such file.

    Raises:
        ConfigError: the file cannot be read as a table.
    """
    path = folder / f"{table}.csv"
    if not path.exists():
        return []
    rows = []
    for (block, row), cells in _cells(path).groupby(["block", "row"], sort=False):
        first = cells.iloc[0]
        rows.append(
            PaperRow(
                table=table,
                block=str(block),
                row=str(row),
                label=str(first["label"]),
                params=str(first["params"]),
                values=dict(zip(cells["column"], cells["value"], strict=True)),
                bold=frozenset(cells["column"][cells["bold"] == "1"]),
            )
        )
    return rows


@dataclass(frozen=True)
class SourceRow:
    """The values that another work prints for a row that the paper copied or reran.

    Attributes:
        source: the work's short name, see `results/paper/README.md`.
        values: digits as the source prints them, by column.
    """

    table: str
    block: str
    row: str
    source: str
    values: dict[str, str]


def source_rows(folder: Path = PAPER) -> Iterator[SourceRow]:
    """Every row of `sources.csv`, in file order."""
    places = ["table", "block", "row", "source"]
    for (table, block, row, source), cells in _cells(folder / "sources.csv").groupby(places, sort=False):
        values = dict(zip(cells["column"], cells["value"], strict=True))
        yield SourceRow(str(table), str(block), str(row), str(source), values)


def published_spreads(folder: Path = PAPER) -> dict[tuple[str, str], dict[str, float]]:
    """Published standard deviations over seeds, by (table, base model) and column."""
    spreads: dict[tuple[str, str], dict[str, float]] = {}
    for cell in _cells(folder / "spread.csv").itertuples():
        spreads.setdefault((str(cell.table), str(cell.block)), {})[str(cell.column)] = float(str(cell.spread))
    return spreads


def _cells(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a table of the paper ({error})") from error
