"""What does not add up in the paper: averages recomputed from its cells, and what reading it showed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from repro.config import Frozen, load_yaml
from repro.paths import ROOT

PAPER = ROOT / "results" / "paper"


class Entry(Frozen):
    """A row of the paper's tables, for an item that explains its printed parameter count."""

    table: str
    block: str
    method: str
    rank: str
    label: str | None = None


class AuditItem(Frozen):
    """One thing that was found.

    Attributes:
        kind: see the head of `results/paper/audit.yaml`.
        where: the place in the paper.
        found: what is wrong or open there.
        source: the work that shows it, where it is another one.
        here: what this project does about it.
        row: of a printed parameter count, the row that it stands in.
    """

    kind: Literal["average", "parameters", "source", "contradiction", "ambiguity"]
    where: str
    found: str
    here: str
    source: str = ""
    row: Entry | None = None


class Audit(Frozen):
    """The file `results/paper/audit.yaml`."""

    items: tuple[AuditItem, ...]


@cache
def audit_items() -> tuple[AuditItem, ...]:
    """Every item, in the order of the file."""
    return load_yaml(PAPER / "audit.yaml", Audit).items


def explanation(table: str, block: str, method: str, rank: str, label: str | None) -> AuditItem | None:
    """The item about the printed parameter count of a row; None if there is none."""
    entry = Entry(table=table, block=block, method=method, rank=rank, label=label)
    return next((item for item in audit_items() if item.row == entry), None)


@dataclass(frozen=True)
class Average:
    """A printed average and that of its row's own cells, in exact decimals.

    `verdict` is `equal`; `boundary` where the mean lies half way between two roundings, either of which is
    right; or `differs`.
    """

    table: str
    block: str
    method: str
    rank: str
    printed: Decimal
    mean: Decimal
    cells: int
    verdict: Literal["equal", "boundary", "differs"]


def averages(folder: Path = PAPER) -> Iterator[Average]:
    """Every row whose average and whose tasks are all known; nothing is said about the others."""
    for path in sorted(folder.glob("table*.csv")):
        cells = pd.read_csv(path, dtype=str, keep_default_na=False)
        for place, row in cells.groupby(["block", "method", "rank", "params"], sort=False):
            values = {str(c.column): str(c.value) for c in row.itertuples() if c.value}
            tasks = [Decimal(value) for column, value in values.items() if column != "avg"]
            # CorDA, VeRA and RandLoRA have no MNLI and no QQP in their sources: six tasks are all there are.
            expected = {len(row) - 1, 6} if path.stem == "table2" else {len(row) - 1}
            if "avg" not in values or len(tasks) not in expected:
                continue
            printed, mean = Decimal(values["avg"]), sum(tasks, Decimal(0)) / len(tasks)
            block, method, rank, _ = map(str, place)
            yield Average(path.stem, block, method, rank, printed, mean, len(tasks), _verdict(printed, mean))


def _verdict(printed: Decimal, mean: Decimal) -> Literal["equal", "boundary", "differs"]:
    step = Decimal(1).scaleb(printed.as_tuple().exponent)  # type: ignore[arg-type]
    if mean.quantize(step, ROUND_HALF_UP) == printed:
        return "equal"
    return "boundary" if abs(mean - printed) * 2 == step else "differs"
