"""The measurements of `repro bench` as JSON, as a Markdown table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repro.report.escapes import figure_text, markdown_text
from repro.report.figures import pyplot, save_figure
from repro.report.formats import markdown_table
from repro.report.output import write_text
from repro.runs.json_files import write_json
from repro.runs.measurements import Measured, Measurement, Point, speed_file


def write_speed(measured: Measured, results: Path) -> tuple[str, list[Path]]:
    """Write all three to the results folder. Returns the table and the files."""
    path = speed_file(results)
    folder = path.parent
    table = speed_table(measured)
    write_json(path, measured)
    written = [path, write_text(folder / "bench.md", table)]
    if measured.points:
        written += _draw(measured.points, folder)
    return table, written


def speed_table(measured: Measured) -> str:
    """Ratios with their targets, and the hardware and versions they were measured on."""
    where = measured.environment
    versions = ", ".join(f"{name} {version}" for name, version in where.packages.items() if name != "gguf")
    head = ["ratio", "at", "median", "least to most", "target", "", ""]
    return "\n".join(
        [
            *markdown_table(head, [_row(figure) for figure in measured.figures]),
            "",
            markdown_text(f"On {where.hardware}, with cases interleaved in one process. {versions}."),
            "",
        ]
    )


def _row(figure: Measurement) -> list[str]:
    ratio = figure.ratio
    bound = "" if figure.target is None else f"{'≥' if figure.higher_is_better else '≤'} {figure.target:g}"
    verdict = {None: "", True: "met", False: "missed"}[figure.met]
    spread = f"{ratio.least:.2f} to {ratio.most:.2f}"
    return [figure.name, figure.at, f"{ratio.median:.2f}", spread, bound, verdict, figure.note]


def _draw(points: Sequence[Point], folder: Path) -> list[Path]:
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    middle = points[0]
    along = {
        "tokens T": lambda point: (point.tokens, point.rank == middle.rank),
        "rank R": lambda point: (point.rank, point.tokens == middle.tokens),
    }
    for column, (label, place) in enumerate(along.items()):
        for row, field in enumerate(("milliseconds", "kept_mib")):
            panel = axes[row][column]
            for name in dict.fromkeys(point.name for point in points):
                line = sorted(
                    (place(p)[0], getattr(p, field)) for p in points if p.name == name and place(p)[1]
                )
                panel.plot(*zip(*line, strict=True), marker="o", label=figure_text(name))
            panel.set_xscale("log", base=2)
            panel.set_ylim(bottom=0)
            panel.set_xlabel(label)
            panel.set_ylabel("ms, forward and backward" if row == 0 else "MiB kept for the backward pass")
    axes[0][0].legend(fontsize=8)
    return save_figure(figure, "bench", "One adapted linear layer, d = k = 2048, fp32", None, folder)
