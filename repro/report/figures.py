"""Figures, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

from repro.report.tables import AVERAGE, Table, TableRow

_STYLE = Path(__file__).with_name("paper.mplstyle")


def draw_averages(table: Table, folder: Path) -> list[Path]:
    """The measured averages of a table as points with their intervals, a panel for each model.

    Returns the files; none where nothing was measured yet.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = [
        (group.heading, [row for row in group.rows if row.values[AVERAGE] is not None])
        for group in table.groups
        if group.source == "measured"
    ]
    groups = [(heading, rows) for heading, rows in groups if rows]
    if not groups:
        return []
    with plt.style.context(str(_STYLE)):
        heights = [len(rows) for _, rows in groups]
        figure, axes = plt.subplots(
            len(groups),
            figsize=(6, 0.9 + 0.3 * sum(heights) + 0.5 * len(groups)),
            gridspec_kw={"height_ratios": heights},
            squeeze=False,
        )
        for (heading, rows), panel in zip(groups, axes[:, 0], strict=True):
            _panel(panel, rows)
            panel.set_title(heading)
        axes[-1, 0].set_xlabel("mean accuracy over the tasks (%), with its 95 % interval")
        figure.suptitle(table.title, x=0.01, ha="left", fontsize=11)
        if table.watermark:
            figure.text(0.5, 0.5, table.watermark.split(":")[0], ha="center", va="center", rotation=20,
                        fontsize=34, color="0.6", alpha=0.5)  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{table.name}.{ending}" for ending in ("png", "svg")]
        for path in paths:
            # Without a date, so that equal data give equal files.
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
    return paths


def _panel(panel, rows: list[TableRow]) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    base = next((row.values[AVERAGE] for row in rows if row.id == "base"), None)
    if base is not None:
        panel.axvline(base.mean, color="0.5", linestyle="--", linewidth=1, zorder=1)
        panel.annotate("base", (base.mean, 1), xycoords=("data", "axes fraction"), fontsize=8, color="0.4",
                       xytext=(3, -2), textcoords="offset points", va="top")  # fmt: skip
    for position, row in enumerate(rows):
        estimate = row.values[AVERAGE]
        assert estimate is not None
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
    panel.set_yticks(range(len(rows)), [row.label for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
