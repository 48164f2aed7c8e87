"""Figure 3 and its table: ranks of the update by module name, trained and untrained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from repro.plans.plan import Plan
from repro.report.escapes import figure_text
from repro.report.figures import STYLE, pyplot, save_figure
from repro.runs.known_ranks import RandomRanks, Rank, RunRanks

_MEASURES = {
    "numerical": "numerical rank",
    "effective": "effective rank",
    "stable": "stable rank",
}
"""Columns of the table, and the panels' titles."""


def rank_table(found: Mapping[str, Iterable[RunRanks]], random: RandomRanks | None) -> pd.DataFrame:
    """Means over layers and seeds, one line per row, state, part of the update and module name.

    Args:
        found: ranks of finished runs, by row label.
        random: ranks of a random update; None leaves it out.

    Returns:
        Columns `row`, `state`, `part`, `module`, `layers`, `ceiling`, and one for each measure.
    """
    groups: dict[tuple[str, str, str, str], list[Rank]] = {}

    def add(row: str, state: str, ranks: Iterable[Rank]) -> None:
        for rank in ranks:
            groups.setdefault((row, state, rank.part, rank.module), []).append(rank)

    for row, runs in found.items():
        for run in runs:
            add(row, "trained", run.trained)
            # LoRA starts at zero, whose rank is 0 and not shown.
            add(row, "untrained", (rank for rank in run.untrained if rank.numerical))
    if random is not None:
        add(f"Random, r {random.factors}", "untrained", random.ranks)
    return pd.DataFrame(
        {
            **dict(zip(("row", "state", "part", "module"), place, strict=True)),
            "layers": len(ranks),
            "ceiling": fmean(rank.ceiling for rank in ranks),
            **{name: fmean(getattr(rank, name) for rank in ranks) for name in _MEASURES},
        }
        for place, ranks in groups.items()
    )


def draw_ranks(plan: Plan, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one panel per measure, in percent of the largest rank that the shapes allow.

    Returns:
        The files; none if nothing is analysed yet.
    """
    if table.empty:
        return []
    plt = pyplot()
    modules = list(dict.fromkeys(table["module"]))
    parts = table.groupby("row")["part"].nunique()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, len(_MEASURES), figsize=(3.6 * len(_MEASURES), 4.2), sharey=True)
        for panel, (measure, title) in zip(axes, _MEASURES.items(), strict=True):
            for row, part, state in table[["row", "part", "state"]].drop_duplicates().itertuples(index=False):
                group = table[(table.row == row) & (table.part == part) & (table.state == state)]
                look = _LOOK_OF_ONE_PART if parts[row] == 1 else _LOOKS.get(part, _OTHER_LOOK)
                _points(panel, group, measure, modules, look, figure_text(f"{row}: {part}, {state}"))
            panel.set_title(title)
            panel.set_xlabel("% of the largest possible, mean over layers")
            panel.set_xlim(-3, 103)
            panel.set_yticks(range(len(modules)), list(map(figure_text, modules)))
            panel.set_ylim(len(modules) - 0.5, -0.5)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=7)
        experiment = plan.experiment
        return save_figure(figure, experiment.name, experiment.title, plan.profile.watermark, folder)


def _points(
    panel: Any,
    group: pd.DataFrame,
    measure: str,
    modules: list[str],
    look: tuple[str, str, float],
    label: str,
) -> None:
    """Draw filled markers for trained, hollow ones for untrained; looks have slightly different heights."""
    marker, color, offset = look
    trained = group.iloc[0]["state"] == "trained"
    panel.plot(
        100 * group[measure] / group["ceiling"],
        [modules.index(module) + offset for module in group["module"]],
        linestyle="none",
        marker=marker,
        color=color,
        markerfacecolor=color if trained else "none",
        markersize=5 if trained else 8,
        label=label,
    )


# Marker, colour and vertical offset: of an update that is not a product of parts (LoRA's), and of each part.
_LOOK_OF_ONE_PART = ("o", "C0", -0.3)
_LOOKS = {"update": ("o", "C1", -0.1), "magnitude": ("^", "C2", 0.1), "direction": ("s", "C3", 0.3)}
_OTHER_LOOK = ("x", "C4", 0.4)
