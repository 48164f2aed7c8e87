"""The paper's own numbers, from `results/paper/`: beside the measured ones, never mixed with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from repro.paths import ROOT


@dataclass
class PaperRow:
    """A row as printed; a value that could not be read anywhere is None.

    `params` is in the unit of the table, percent or millions; `label` is the paper's own, where method and
    rank do not tell rows apart.
    """

    block: str
    method: str
    rank: str
    params: str
    label: str | None = None
    values: dict[str, float | None] = field(default_factory=dict)


def paper_rows(table: str, folder: Path = ROOT / "results" / "paper") -> list[PaperRow]:
    """The rows of a table of the paper, in its order; none if the table is not there."""
    path = folder / f"{table}.csv"
    if not path.exists():
        return []
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows: dict[tuple[str, ...], PaperRow] = {}
    for cell in cells.itertuples():
        place = (str(cell.block), str(cell.method), str(cell.rank))
        label = str(getattr(cell, "label", "")) or None
        row = rows.setdefault((*place, label or ""), PaperRow(*place, params=str(cell.params), label=label))
        row.values[str(cell.column)] = float(str(cell.value)) if cell.value else None
    return list(rows.values())
