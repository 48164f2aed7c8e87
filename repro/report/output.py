"""Where rendered things go: tables, figures and pages below the results folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from repro.analysis.run_ranks import known_random_ranks, known_run_ranks
from repro.report.diagnostics import diagnostics_table, draw_diagnostics
from repro.report.figures import draw_table
from repro.report.formats import FORMATS, grid
from repro.report.ranks import draw_ranks, rank_table
from repro.report.sweeps import draw_sweep
from repro.report.tables import Table, build_table
from repro.study.experiment import Plan
from repro.study.states import RunState
from repro.study.store import Store


def write_experiment(
    plan: Plan, states: Sequence[RunState], store: Store, results: Path
) -> tuple[str, list[Path]]:
    """Write an experiment's tables and figures from its finished runs.

    Returns what a person wants to read of it, and the files.
    """
    table = build_table(plan, states)
    name = plan.experiment.name
    tables, figures = results / "tables" / plan.profile.name, results / "figures" / plan.profile.name
    written = [write_text(tables / f"{name}.{ending}", render(table)) for ending, render in FORMATS.items()]
    texts = []
    if plan.experiment.ranks is not None:
        ranks = _known_ranks(plan, store)
        texts.append(ranks.round(1).to_string(index=False))
        written.append(_write_frame(tables / f"{name}-ranks.csv", ranks))
        written += draw_ranks(plan, ranks, figures)
    elif plan.experiment.sweep:
        written += draw_sweep(plan, table, figures)
    else:
        written += draw_table(table, figures)
    inside = diagnostics_table(
        {row.label: [d for spec in row.specs if (d := store.diagnostics(spec))] for row in plan.rows}
    )
    if not inside.empty:
        written.append(_write_frame(tables / f"{name}-diagnostics.csv", inside))
        written += draw_diagnostics(plan, inside, figures)
    return "\n\n".join([*texts, _as_text(table)]), written


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _write_frame(path: Path, frame: pd.DataFrame) -> Path:
    return write_text(path, frame.to_csv(index=False, float_format="%.6g"))


def _known_ranks(plan: Plan, store: Store) -> pd.DataFrame:
    assert plan.experiment.ranks is not None
    found = {row.label: [r for spec in row.specs if (r := known_run_ranks(spec, store))] for row in plan.rows}
    wanted = plan.experiment.ranks
    return rank_table(found, known_random_ranks(wanted.random_size, wanted.random_rank, store.folder.parent))


def _as_text(table: Table) -> str:
    head = [table.title, table.watermark] if table.watermark else [table.title]
    return "\n".join([*head, "", *grid(table), "", *(f"- {note}" for note in table.notes)])
