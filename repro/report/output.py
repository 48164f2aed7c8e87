"""Writes tables, figures and pages to the results folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from repro.analysis.merging import merging_costs
from repro.analysis.norms import NormPoint
from repro.analysis.peaks import peaks
from repro.config import ConfigError, Frozen
from repro.files import write_whole
from repro.plans.experiment import LEARNING_RATE
from repro.plans.plan import Plan
from repro.plans.profile import Profile
from repro.plans.spec import RunSpec
from repro.report.cost_columns import with_costs
from repro.report.diagnostics import diagnostics_table, draw_diagnostics
from repro.report.escapes import csv_text
from repro.report.figures import draw_table
from repro.report.formats import FORMATS, grid
from repro.report.merging import merging_lines, merging_page, merging_table
from repro.report.norms import draw_norms, norm_table
from repro.report.peaks import peak_table
from repro.report.ranks import draw_ranks, rank_table
from repro.report.sweeps import draw_sweep
from repro.report.tables import Table, build_table
from repro.runs.known_curvature import Curvature, known_curvature
from repro.runs.known_ranks import known_random_ranks, known_run_ranks
from repro.runs.states import RunState
from repro.runs.store import Store
from repro.text import one_line

T = TypeVar("T", bound=Frozen)


def write_experiment(
    plan: Plan, states: Sequence[RunState], store: Store, results: Path, *, costs: bool = False
) -> tuple[str, list[Path]]:
    """Write an experiment's tables and figures from its finished runs.

    Args:
        costs: whether the tables have the columns of `with_costs`, in files of their own.

    Returns:
        The text for the terminal, including which files could not be read, and the written files.
    """
    table = build_table(plan, states)
    name = plan.experiment.name
    tables, figures = results / "tables" / plan.profile.name, results / "figures" / plan.profile.name
    shown, stem = (with_costs(table, plan, states), f"{name}-costs") if costs else (table, name)
    written = [write_text(tables / f"{stem}.{ending}", render(shown)) for ending, render in FORMATS.items()]
    texts: list[str] = []
    ranks, inside = _frames(plan, store, texts)
    if ranks is not None:
        texts.append(ranks.round(1).to_string(index=False))
        written.append(_write_frame(tables / f"{name}-ranks.csv", ranks))
    if not inside.empty:
        written.append(_write_frame(tables / f"{name}-diagnostics.csv", inside))
    tops = _peaks(plan, states, store, texts)
    if not tops.empty:
        texts.append(tops.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
        written.append(_write_frame(tables / f"{name}-peaks.csv", tops))
    costs_of_merging = merging_costs(plan, states, store)
    if costs_of_merging:
        texts.append("\n".join(merging_lines(costs_of_merging)))
        written.append(_write_frame(tables / f"{name}-merging.csv", merging_table(costs_of_merging)))
        written.append(write_text(tables / f"{name}-merging.md", merging_page(plan, costs_of_merging)))
    written += _draw(plan, table, ranks, inside, tops, figures)
    return "\n\n".join([*texts, _as_text(shown)]), written


def draw_experiment(plan: Plan, states: Sequence[RunState], store: Store, figures: Path) -> list[Path]:
    """Draw an experiment's figures alone, without what `damaged_files` names. Returns the files."""
    tops = _peaks(plan, states, store, [])
    return _draw(plan, build_table(plan, states), *_frames(plan, store, []), tops, figures)


def _frames(plan: Plan, store: Store, problems: list[str]) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """The ranks, None where the experiment wants none, and the diagnostics."""
    ranks = None if plan.experiment.ranks is None else _known_ranks(plan, store, problems)
    return ranks, diagnostics_table(_of_runs(store.diagnostics, plan, problems))


def _peaks(plan: Plan, states: Sequence[RunState], store: Store, problems: list[str]) -> pd.DataFrame:
    """The peaks of a sweep's curves; empty for another experiment.

    Curvature is what may predict the best learning rate, so that peaks over anything else have none.
    """
    sweep = plan.experiment.sweep

    def curvature(spec: RunSpec) -> Curvature | None:
        if sweep is None or sweep.x != LEARNING_RATE:
            return None
        return _readable(partial(known_curvature, spec, store.folder.parent), problems)

    return peak_table(peaks(plan, states) if sweep else [], curvature)


def _draw(
    plan: Plan,
    table: Table,
    ranks: pd.DataFrame | None,
    inside: pd.DataFrame,
    tops: pd.DataFrame,
    figures: Path,
) -> list[Path]:
    if ranks is not None:
        drawn = draw_ranks(plan, ranks, figures)
    elif plan.experiment.sweep:
        drawn = draw_sweep(plan, table, tops, figures)
    else:
        drawn = draw_table(table, figures)
    return drawn + ([] if inside.empty else draw_diagnostics(plan, inside, figures))


def write_norms(points: Sequence[NormPoint], profile: Profile, results: Path) -> list[Path]:
    """Write the figure and the table of gains against the size of the update; nothing without a point."""
    if not points:
        return []
    table = _write_frame(results / "tables" / profile.name / "norm.csv", norm_table(points))
    return [table, *draw_norms(points, profile, results / "figures" / profile.name)]


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    write_whole(path, text.encode())
    return path


def _write_frame(path: Path, frame: pd.DataFrame) -> Path:
    texts = frame.map(lambda cell: csv_text(cell) if isinstance(cell, str) else cell)
    return write_text(path, texts.to_csv(index=False, float_format="%.6g"))


def _readable(read: Callable[[], T | None], problems: list[str]) -> T | None:
    """The result of `read`; None if its file is invalid, which is then added to `problems`."""
    try:
        return read()
    except ConfigError as error:
        problems.append(f"left out: {error}")
        return None


def _of_runs(read: Callable[[RunSpec], T | None], plan: Plan, problems: list[str]) -> dict[str, list[T]]:
    """What can be read of each row's runs, by row label."""
    return {
        row.label: [
            content for spec in row.specs if (content := _readable(partial(read, spec), problems)) is not None
        ]
        for row in plan.rows
    }


def _known_ranks(plan: Plan, store: Store, problems: list[str]) -> pd.DataFrame:
    wanted = plan.experiment.ranks
    assert wanted is not None
    found = _of_runs(partial(known_run_ranks, store=store), plan, problems)
    folder = store.folder.parent
    random = partial(known_random_ranks, wanted.random_size, wanted.random_rank, folder)
    return rank_table(found, _readable(random, problems))


def _as_text(table: Table) -> str:
    head = [table.title, table.watermark] if table.watermark else [table.title]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([*map(one_line, head), "", *grid(table), "", *map(one_line, notes)])
