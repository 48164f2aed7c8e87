"""A `Table` as Markdown (also shown in the terminal), CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from repro.analysis.paper import AVERAGE
from repro.report.tables import GAIN, Table, TableRow

MISSING = "-"


def to_markdown(table: Table) -> str:
    """The title, the aligned table, and its notes and warnings."""
    lines = [f"# {table.title}", ""]
    if table.watermark:
        lines += [f"**{table.watermark}**", ""]
    lines += grid(table)
    lines += ["", *(f"- {note}" for note in table.notes)]
    if table.warnings:
        lines += ["", "Warnings of the runs:", "", *(f"- {warning}" for warning in table.warnings)]
    return "\n".join(lines) + "\n"


def grid(table: Table) -> list[str]:
    """The table alone as aligned Markdown lines, with a heading row above every group."""
    header = ["Method", table.params, *table.columns.values(), "runs"]
    rows: list[list[str]] = []
    for group in table.groups:
        rows.append([f"**{group.heading}**", *[""] * (len(header) - 1)])
        rows += [cell_texts(table, row, bold="**{}**".format) for row in group.rows]
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        aligned = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(aligned) + " |"

    rule = (
        "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    )
    return [line(header), rule, *(line(row) for row in rows)]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines of a simple table, unaligned; `|` in cells is escaped."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]


def to_csv(table: Table) -> str:
    """One line per cell: its place, whether it is measured or printed, value and interval half-width."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "profile", "source", "block", "row", "column", "value", "half_width", "runs"])
    for group in table.groups:
        profile = table.profile if group.source == "measured" else ""
        for row in group.rows:
            for column in table.columns:
                estimate = row.values.get(column)
                figures: list[object] = [row.printed.get(column, ""), "", ""]
                if estimate is not None and column not in row.printed:
                    width = "" if estimate.half_width is None else f"{estimate.half_width:.4f}"
                    figures = [f"{estimate.mean:.4f}", width, estimate.runs if row.runs else ""]
                writer.writerow([table.name, profile, group.source, group.block, row.id, column, *figures])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A booktabs `tabular`, with the notes as comments above it."""
    columns = ["Method", *map(_escape, [table.params, *table.columns.values()]), "runs"]
    lines = [f"% {line}" for line in (table.title, table.watermark or "", *table.notes) if line]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", " & ".join(columns) + r" \\"]
    for group in table.groups:
        lines += [
            r"\midrule",
            rf"\multicolumn{{{len(columns)}}}{{l}}{{\textit{{{_escape(group.heading)}}}}} \\",
        ]
        lines += [
            " & ".join(_escape(cell) for cell in cell_texts(table, row, bold=r"\textbf{{{}}}".format))
            + r" \\"
            for row in group.rows
        ]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
"""Renderers by file extension."""


def cell_texts(table: Table, row: TableRow, bold: Callable[[str], str] = str) -> list[str]:
    """The texts of a row: label, parameters, one for every column, and finished/expected runs.

    Args:
        bold: formats a text in bold.
    """
    texts = {column: _value(row, column, table) for column in table.columns}
    values = [
        (bold(text) if column in row.bold else text) + ("*" if column in row.collapsed else "")
        for column, text in texts.items()
    ]
    runs = "" if row.runs is None else f"{row.runs[0]}/{row.runs[1]}"
    return [row.label, row.params, *values, runs]


def _value(row: TableRow, column: str, table: Table) -> str:
    if column not in row.values:
        return ""
    if column in row.printed:
        return row.printed[column]
    estimate = row.values[column]
    if estimate is None:
        return MISSING
    sign = "+" if column == GAIN else ""
    text = f"{estimate.mean:{sign}.{table.decimals.get(column, 1)}f}"
    if column in (AVERAGE, GAIN) and estimate.half_width is not None:
        text += f" ± {estimate.half_width:.1f}"
    if column == AVERAGE and row.averaged is not None:
        text += f" (of {len(row.averaged)})"
    return text


def _escape(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, rf"\{character}")
    return text.replace("±", r"$\pm$").replace("†", r"$\dagger$")
