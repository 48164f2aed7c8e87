"""The figure of a sweep: a curve for every row that varies, a horizontal line for every other row.

Below the curves, a bar for each shows the plateau around its peak. Where curvatures are known, a panel shows
them against the best value of x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from repro.analysis.paper import AVERAGE
from repro.plans.experiment import Sweep
from repro.plans.plan import Plan, PlannedRow
from repro.plans.spec import flatten
from repro.report.escapes import figure_text
from repro.report.figures import STYLE, pyplot, save_figure
from repro.report.peaks import CURVATURE
from repro.report.tables import Table, TableRow

# The x axis is logarithmic if its largest value exceeds its smallest by more than this factor.
_LOGARITHMIC = 15
# With more values than this their tick labels would overlap; matplotlib chooses the ticks then.
_MOST_TICKS = 7
# Best values are among the few that were tried: curves are drawn apart by this factor, so that all are seen.
_APART = 1.06


def draw_sweep(plan: Plan, table: Table, peaks: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the measured averages with their intervals, one panel per block, then the paper's values.

    Where the sweep names a column, its scores are drawn instead of averages.

    Args:
        peaks: from `repro.report.peaks.peak_table`.

    Returns:
        The files; none if nothing is measured yet.
    """
    sweep = plan.experiment.sweep
    assert sweep is not None
    blocks = list(dict.fromkeys(row.block for row in plan.rows))
    column = sweep.column or AVERAGE
    groups = {(group.source, group.block): group for group in table.groups}
    if not any(row.values.get(column) for block in blocks for row in groups["measured", block].rows):
        return []
    printed = [group for group in table.groups if group.source == "paper"]
    curved = peaks[peaks["curvature"].notna()] if len(peaks) else peaks
    plt = pyplot()
    with plt.style.context(STYLE):
        count = len(blocks) + len(printed) + (not curved.empty)
        figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 4.2), squeeze=False)
        curves = {curve for block in blocks for curve in _looks([r for r in plan.rows if r.block == block])}
        lines = _Lines(len(curves) or 1)
        for panel, block in zip(axes[0], blocks, strict=False):
            rows = {row.id: row for row in groups["measured", block].rows}
            planned = [row for row in plan.rows if row.block == block]
            _measured(panel, planned, rows, sweep, lines)
            _plateaus(panel, planned, peaks)
            panel.set_title(figure_text(groups["measured", block].heading))
        for panel, group in zip(axes[0, len(blocks) :], printed, strict=False):
            _printed(panel, group.rows, lines)
            panel.set_title(figure_text(group.heading))
        if not curved.empty:
            _curvatures(axes[0, -1], plan.rows, curved, sweep.label)
        for panel in axes[0]:
            panel.set_xlabel(figure_text(panel.get_xlabel() or sweep.label))
            panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
        score = "mean accuracy (%)" if sweep.column is None else table.columns[sweep.column]
        axes[0, 0].set_ylabel(figure_text(f"{score}, 95 % interval"))
        return save_figure(figure, table.name, table.title, table.watermark, folder)


class _Lines:
    """Horizontal lines that look different from the curves, and alike in all panels where their label is."""

    def __init__(self, curves: int) -> None:
        self._curves = curves
        self._labels: list[str] = []

    def draw(self, panel: Any, height: float, label: str) -> str:
        """Draw a line across the panel. Returns its colour."""
        if label not in self._labels:
            self._labels.append(label)
        index = self._curves + self._labels.index(label)
        color = str(_LOOKS[index % len(_LOOKS)]["color"])
        panel.axhline(height, color=color, linestyle=_DASHES[index % len(_DASHES)], label=figure_text(label))
        return color


def _measured(
    panel: Any, planned: list[PlannedRow], rows: dict[str, TableRow], sweep: Sweep, lines: _Lines
) -> None:
    column = sweep.column or AVERAGE
    curves: dict[str | None, list[tuple[float, TableRow]]] = {}
    for plan in planned:
        place = flatten(plan.specs[0].model_dump(mode="json")).get(sweep.x, math.nan)
        if rows[plan.id].values.get(column) is not None:
            curves.setdefault(plan.curve, []).append((place, rows[plan.id]))
    flat = curves.pop(None, [])
    places = [place for points in curves.values() for place, _ in points]
    if places and 0 < _LOGARITHMIC * min(places) < max(places):
        panel.set_xscale("log")
    ticks = sorted(set(places))
    if 0 < len(ticks) <= _MOST_TICKS:
        panel.set_xticks(ticks, [f"{place:g}" for place in ticks])
        panel.set_xticks([], minor=True)
    looks = _looks(planned)
    for curve in (curve for curve in looks if curve in curves):
        points = curves[curve]
        points.sort(key=lambda point: point[0])
        estimates = [row.values[column] for _, row in points]
        panel.errorbar(
            [place for place, _ in points],
            [e.mean for e in estimates if e],
            yerr=[e.half_width or 0 for e in estimates if e],
            # A point's label ends in a comma and the value that varies.
            label=figure_text(points[0][1].label.rpartition(",")[0]),
            **looks[curve],
        )
    # The intervals of horizontal lines are drawn to the right of the curves.
    low, high = panel.get_xlim()
    for index, (_, row) in enumerate(flat):
        estimate = row.values[column]
        assert estimate is not None
        color = lines.draw(panel, estimate.mean, row.label)
        place = high + (high - low) * 0.03 * (1 + index)
        if panel.get_xscale() == "log":
            place = high * (high / low) ** (0.03 * (1 + index))
        panel.errorbar(place, estimate.mean, yerr=estimate.half_width or 0, color=color, capsize=2)


def _looks(planned: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
    """A look for each curve. Dual LoRA comes first, so that it looks as in the other figures."""
    curves = dict.fromkeys(row.curve for row in planned if row.curve is not None)
    order = sorted(curves, key=lambda curve: not curve.startswith("dual_lora"))
    return {curve: _LOOKS[index % len(_LOOKS)] for index, curve in enumerate(order)}


def _plateaus(panel: Any, planned: Sequence[PlannedRow], peaks: pd.DataFrame) -> None:
    """A bar over each plateau at the bottom of the panel, with a mark at the peak."""
    looks = _looks(planned)
    own = [peak for peak in peaks.to_dict("records") if peak["block"] == planned[0].block]
    low, high = panel.get_ylim()
    step = 0.03 * (high - low)
    for index, peak in enumerate(own):
        height, look = low - step * (len(own) - index), looks[peak["row"]]
        panel.plot(
            [peak["plateau_low"], peak["plateau_high"]], [height] * 2, color=look["color"], linewidth=2
        )
        panel.plot(peak["best"], height, color=look["color"], marker=look["marker"], markersize=5)


def _curvatures(panel: Any, planned: Sequence[PlannedRow], peaks: pd.DataFrame, label: str) -> None:
    """The best value of x, between those of single seeds, against the curvature of the start."""
    looks = _looks(planned)
    places: set[float] = set()
    for index, peak in enumerate(peaks.to_dict("records")):
        # The best of the mean need not be between those of the seeds.
        seeds = [float(x) for x in peak["seeds_best"].split(", ") if x] or [peak["best"]]
        places |= {peak["best"], *seeds}
        below, above = max(0.0, peak["best"] - min(seeds)), max(0.0, max(seeds) - peak["best"])
        apart = _APART ** (index - (len(peaks) - 1) / 2)
        panel.errorbar(
            peak["curvature"],
            peak["best"] * apart,
            yerr=[[below * apart], [above * apart]],
            label=figure_text(peak["curve"]),
            **looks[peak["row"]] | {"linestyle": "none"},
        )
    panel.set(xscale="log", yscale="log", xlabel=CURVATURE, title="the best, and the best of single seeds")
    panel.set_ylabel(figure_text(label))
    panel.set_yticks(sorted(places), [f"{place:g}" for place in sorted(places)])
    panel.set_yticks([], minor=True)
    panel.set_ylim(min(places) / 2, max(places) * 2)


def _printed(panel: Any, rows: tuple[TableRow, ...], lines: _Lines) -> None:
    """Draw Dual LoRA's printed points at their rank, other rows as horizontal lines."""
    for row in rows:
        estimate = row.values.get(AVERAGE)
        if estimate is None:
            continue
        if row.id.startswith("dual_lora"):
            place = float(row.id.rpartition("-")[2])
            panel.errorbar(place, estimate.mean, label=figure_text(row.label), **_LOOKS[0])
            panel.set_xlim(0, 2 * place)
        else:
            lines.draw(panel, estimate.mean, row.label)


# Distinct without colour, by marker and dash. Table 1's learning-rate sweep has eight methods.
_LOOKS: list[dict[str, Any]] = [
    {"color": color, "marker": marker, "linestyle": dash, "capsize": 2, "markersize": 4, "elinewidth": 0.7}
    for color, marker, dash in [
        ("C1", "D", "-"),
        ("C0", "o", "--"),
        ("C2", "s", "-."),
        ("C3", "^", ":"),
        ("C4", "v", "-"),
        ("C5", "P", "--"),
        ("C6", "X", "-."),
        ("0.4", "<", ":"),
    ]
]
_DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))]
