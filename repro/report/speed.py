"""The measurements of `repro bench` as JSON, as a Markdown table and as a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from repro.report.escapes import figure_text, markdown_text
from repro.report.figures import pyplot, save_figure
from repro.report.formats import markdown_table
from repro.report.output import write_text
from repro.runs.json_files import write_json
from repro.runs.measurements import Measured, Measurement, Point, speed_file


def write_speed(measured: Measured, results: Path) -> list[Path]:
    """Write the measurements and their table to the results folder. Returns the files."""
    path = speed_file(results, measured)
    write_json(path, measured)
    return [path, write_speed_table(measured, results)]


def write_speed_table(measured: Measured, results: Path) -> Path:
    """Write the table alone. Returns its file."""
    path = speed_file(results, measured).with_suffix(".md")
    return write_text(path, speed_table(measured))


def draw_speed(measured: Measured, results: Path) -> list[Path]:
    """Draw the points of the layers, if there are any. Returns the files."""
    path = speed_file(results, measured)
    return _draw(measured.points, path.stem, path.parent) if measured.points else []


def speed_table(measured: Measured) -> str:
    """Ratios with their targets, and the hardware and versions they were measured on.

    For a GPU the times of its layers follow; and for every device what was not measured.
    """
    where = measured.environment
    hardware = where.hardware if measured.card is None else str(measured.card)
    versions = ", ".join(f"{name} {version}" for name, version in where.packages.items() if name != "gguf")
    head = ["ratio", "at", "median", "least to most", "target", "", ""]
    lines = [
        *markdown_table(head, [_row(figure) for figure in measured.figures]),
        "",
        markdown_text(f"On {hardware}, with cases interleaved in one process. {versions}."),
        "",
    ]
    if measured.card is not None and measured.points:
        lines += [
            "Milliseconds of one layer, forward and backward, medians:",
            "",
            *_layers(measured.points),
            "",
        ]
    if measured.left_out:
        lines += ["Not measured:", "", *(f"- {markdown_text(line)}" for line in measured.left_out), ""]
    return "\n".join(lines)


def _layers(points: Sequence[Point]) -> list[str]:
    """A row for each shape and reading, a column for each method."""
    names = list(dict.fromkeys(point.name for point in points))
    rows: dict[str, dict[str, str]] = {}
    for point in points:
        reading = ", captured" if point.captured else ""
        at = f"{point.d} x {point.k}, T {point.tokens}, R {point.rank}{reading}"
        rows.setdefault(at, {})[point.name] = f"{point.milliseconds:.3g}"
    return markdown_table(
        ["d x k", *names], [[at, *(row.get(n, "") for n in names)] for at, row in rows.items()]
    )


def _row(figure: Measurement) -> list[str]:
    ratio = figure.ratio
    bound = "" if figure.target is None else f"{'≥' if figure.higher_is_better else '≤'} {figure.target:g}"
    verdict = {None: "", True: "met", False: "missed"}[figure.met]
    spread = f"{ratio.least:.2f} to {ratio.most:.2f}"
    return [figure.name, figure.at, f"{ratio.median:.2f}", spread, bound, verdict, figure.note]


def _draw(points: Sequence[Point], name: str, folder: Path) -> list[Path]:
    """Time and memory of the first point's layer, over tokens and over ranks."""
    middle = points[0]
    size = f"d = k = {middle.d}" if middle.d == middle.k else f"d {middle.d}, k {middle.k}"
    own = [p for p in points if (p.d, p.k, p.precision) == (middle.d, middle.k, middle.precision)]
    eager, captured = ([p for p in own if p.captured == reading] for reading in (False, True))
    panels = [("ms, forward and backward", "milliseconds", eager)]
    panels += [("ms, as a CUDA graph", "milliseconds", captured)] if captured else []
    panels += [("MiB kept for the backward pass", "kept_mib", eager)]
    along: dict[str, Callable[[Point], tuple[int, bool]]] = {
        "tokens T": lambda point: (point.tokens, point.rank == middle.rank),
        "rank R": lambda point: (point.rank, point.tokens == middle.tokens),
    }
    plt = pyplot()
    figure, axes = plt.subplots(len(panels), 2, figsize=(9, 3 * len(panels)), layout="constrained")
    # A method has one colour, also where another has no points.
    colours = {method: f"C{place}" for place, method in enumerate(dict.fromkeys(p.name for p in own))}
    for row, (unit, field, shown) in enumerate(panels):
        for column, (label, place) in enumerate(along.items()):
            panel = axes[row][column]
            for method, colour in colours.items():
                line = sorted(
                    (place(p)[0], getattr(p, field)) for p in shown if p.name == method and place(p)[1]
                )
                if line:
                    panel.plot(*zip(*line, strict=True), marker="o", color=colour, label=figure_text(method))
            panel.set_xscale("log", base=2)
            panel.set_ylim(bottom=0)
            panel.set_xlabel(label)
            panel.set_ylabel(unit)
    axes[0][0].legend(fontsize=8)
    title = f"One adapted linear layer, {size}, {middle.precision}"
    return save_figure(figure, name, title, None, folder)
