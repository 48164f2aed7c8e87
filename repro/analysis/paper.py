"""The paper's own numbers, from `results/paper/`: beside the measured ones, never mixed with them."""

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
        table, block, row: the table, the base model's name, and the id of the row in `experiments/`.
        label, params: as printed; `params` in the unit of the table, empty where it has no such column.
        values: by column, in the paper's order, the digits as printed; empty where it prints a dash.
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
        """The value of a column; None for a dash, and where the row has no such column."""
        text = self.values.get(column, "")
        return Decimal(text) if text else None

    @property
    def tasks(self) -> dict[str, Decimal]:
        """The printed values of every column but the average."""
        found = {column: self.number(column) for column in self.values if column != AVERAGE}
        return {column: value for column, value in found.items() if value is not None}


def paper_rows(table: str, folder: Path = PAPER) -> list[PaperRow]:
    """The rows of a table of the paper, in its order; none if the table is not there.

    Raises:
        ConfigError: the file cannot be read as such a table.
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
    """What another work prints for a row that the paper took over, or ran again.

    Attributes:
        source: a short name; `results/paper/README.md` says which work it is.
        values: by column, the digits as the source prints them.
    """

    table: str
    block: str
    row: str
    source: str
    values: dict[str, str]


def source_rows(folder: Path = PAPER) -> Iterator[SourceRow]:
    """Every row of `sources.csv`, in its order."""
    places = ["table", "block", "row", "source"]
    for (table, block, row, source), cells in _cells(folder / "sources.csv").groupby(places, sort=False):
        values = dict(zip(cells["column"], cells["value"], strict=True))
        yield SourceRow(str(table), str(block), str(row), str(source), values)


def published_spreads(folder: Path = PAPER) -> dict[tuple[str, str], dict[str, float]]:
    """Published standard deviations over seeds: by table and base model, a number for each column."""
    spreads: dict[tuple[str, str], dict[str, float]] = {}
    for cell in _cells(folder / "spread.csv").itertuples():
        spreads.setdefault((str(cell.table), str(cell.block)), {})[str(cell.column)] = float(str(cell.spread))
    return spreads


def _cells(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a table of the paper ({error})") from error
