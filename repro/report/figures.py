"""Figures, as PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repro.analysis.paper import AVERAGE
from repro.files import whole_file
from repro.report.escapes import figure_text
from repro.report.tables import GAIN, Table, TableRow

# Characters of an 11 point title that fit an inch; Table 3's title has 12.6.
_CHARACTERS_PER_INCH = 11.5

# Longer titles would leave no room for the figure.
_TITLE = 400

STYLE = str(Path(__file__).with_name("paper.mplstyle"))


def pyplot() -> Any:
    """matplotlib's pyplot with the Agg backend, which draws into files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def save_figure(figure: Any, name: str, title: str, watermark: str | None, folder: Path) -> list[Path]:
    """Add the title and watermark, write the figure as PNG and SVG and close it. Returns the files."""
    lines = textwrap.wrap(figure_text(title, _TITLE), int(_CHARACTERS_PER_INCH * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.18 * (len(lines) - 1))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    if watermark:
        figure.text(0.5, 0.5, figure_text(watermark.split(":")[0]), ha="center", va="center", rotation=20,
                    fontsize=34, color="0.6", alpha=0.5)  # fmt: skip
    paths = [folder / f"{name}.{ending}" for ending in ("png", "svg")]
    for path in paths:
        with whole_file(path) as file:
            # No date, so that equal data give equal files.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(file, format=path.suffix[1:], metadata=metadata)
    pyplot().close(figure)
    return paths


def draw_table(table: Table, folder: Path) -> list[Path]:
    """Draw a table's measured averages and gains with their intervals, one row of panels per model.

    A table without an average has one panel per column.

    Returns:
        The files; none if nothing is measured yet.
    """
    shown = {column: label for column, label in _AXES.items() if column in table.columns} or table.columns
    groups = [
        (group.heading, [row for row in group.rows if any(row.values.get(column) for column in shown)])
        for group in table.groups
        if group.source == "measured"
    ]
    groups = [(heading, rows) for heading, rows in groups if rows]
    if not groups:
        return []
    plt = pyplot()  # takes half a second to import
    with plt.style.context(STYLE):
        heights = [len(rows) for _, rows in groups]
        figure, axes = plt.subplots(
            len(groups),
            len(shown),
            figsize=(
                _labels(rows for _, rows in groups) + (3.6 if len(shown) < 3 else 2.2) * len(shown),
                0.9 + 0.3 * sum(heights) + 0.5 * len(groups),
            ),
            gridspec_kw={"height_ratios": heights},
            sharey="row",
            squeeze=False,
        )
        for line, (heading, rows) in enumerate(groups):
            for panel, column in zip(axes[line], shown, strict=True):
                _panel(panel, rows, column)
            axes[line, 0].set_title(figure_text(heading))
        for panel, label in zip(axes[-1], shown.values(), strict=True):
            panel.set_xlabel(figure_text(label))
        return save_figure(figure, table.name, table.title, table.watermark, folder)


def _labels(groups: Iterable[Sequence[TableRow]]) -> float:
    """Inches for the rows' labels.

    With up to 28 characters, as in the paper's tables, 1.2 leave room for the labels of the axes; each more
    takes 0.08.
    """
    longest = max(len(figure_text(row.label)) for rows in groups for row in rows)
    return 1.2 + 0.08 * max(0, longest - 28)


_AXES = {
    AVERAGE: "mean over the tasks (%), 95 % interval",
    GAIN: "gain over Base (points), paired, 95 % interval",
}


def _panel(panel, rows: list[TableRow], column: str) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    for position, row in enumerate(rows):
        estimate = row.values.get(column)
        if estimate is None:
            continue
        ours = row.id.startswith("dual_lora")
        panel.errorbar(
            estimate.mean,
            position,
            xerr=estimate.half_width,
            fmt="D" if ours else "o",
            color="C1" if ours else "C0",
            markersize=5,
            capsize=2,
            linewidth=1.2,
        )
    if column == GAIN:
        panel.axvline(0, color="0.4", linestyle="--", linewidth=1, zorder=1)
    panel.set_yticks(range(len(rows)), [figure_text(row.label) for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
