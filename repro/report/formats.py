"""A `Table` as Markdown (also shown in the terminal), CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from repro.analysis.paper import AVERAGE
from repro.report.escapes import csv_text, latex_text, markdown_cell, markdown_prose, markdown_text
from repro.report.tables import GAIN, LOG_PROBABILITY, PROBABILITY, Table, TableRow
from repro.text import one_line

MISSING = "-"


def to_markdown(table: Table) -> str:
    """The title, the aligned table, and its notes and warnings."""
    lines = [f"# {markdown_prose(table.title)}", ""]
    if table.watermark:
        lines += [f"**{markdown_prose(table.watermark)}**", ""]
    lines += grid(table)
    lines += ["", *(f"- {markdown_prose(note)}" for note in table.notes)]
    if table.warnings:
        warnings = [f"- {markdown_text(warning)}" for warning in table.warnings]
        lines += ["", "Warnings of the runs:", "", *warnings]
    return "\n".join(lines) + "\n"


def grid(table: Table) -> list[str]:
    """The table alone as aligned Markdown lines, with a heading row above every group."""
    header = ["Method", *map(markdown_text, [table.params, *table.columns.values()]), "runs"]
    rows: list[list[str]] = []
    for group in table.groups:
        rows.append([f"**{markdown_text(group.heading)}**", *[""] * (len(header) - 1)])
        rows += [cell_texts(table, row, markdown_text, bold="**{}**".format) for row in group.rows]
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
    """Markdown lines of a simple table, unaligned. Cells are prose: they may hold code between backticks."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows),
    ]


def to_csv(table: Table) -> str:
    """One line per cell: its place, whether it is measured or printed, value and interval half-width."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "profile", "source", "block", "row", "column", "value", "half_width", "runs"])
    for group in table.groups:
        profile = table.profile if group.source == "measured" else ""
        for row in group.rows:
            more = [LOG_PROBABILITY] if LOG_PROBABILITY in row.values else []
            for column in [*table.columns, *more]:
                estimate = row.values.get(column)
                figures: list[object] = [row.printed.get(column, ""), "", ""]
                if estimate is not None and column not in row.printed:
                    width = "" if estimate.half_width is None else f"{estimate.half_width:.4f}"
                    figures = [f"{estimate.mean:.4f}", width, estimate.runs if row.runs else ""]
                place = map(csv_text, [table.name, profile, group.source, group.block, row.id, column])
                writer.writerow([*place, *figures])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A booktabs `tabular`, with the notes as comments above it."""
    columns = ["Method", *map(latex_text, [table.params, *table.columns.values()]), "runs"]
    lines = [f"% {one_line(line)}" for line in (table.title, table.watermark or "", *table.notes) if line]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", " & ".join(columns) + r" \\"]
    for group in table.groups:
        lines += [
            r"\midrule",
            rf"\multicolumn{{{len(columns)}}}{{l}}{{\textit{{{latex_text(group.heading)}}}}} \\",
        ]
        lines += [
            " & ".join(cell_texts(table, row, latex_text, bold=r"\textbf{{{}}}".format)) + r" \\"
            for row in group.rows
        ]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
"""Renderers by file extension."""


def cell_texts(
    table: Table, row: TableRow, escape: Callable[[str], str] = str, bold: Callable[[str], str] = str
) -> list[str]:
    """The texts of a row: label, parameters, one for every column, and finished/expected runs.

    Args:
        escape: makes a text harmless in the format.
        bold: formats an escaped text in bold.
    """
    texts = {column: escape(_value(row, column, table)) for column in table.columns}
    values = [
        (bold(text) if column in row.bold else text) + ("*" if column in row.collapsed else "")
        for column, text in texts.items()
    ]
    runs = "" if row.runs is None else f"{row.runs[0]}/{row.runs[1]}"
    return [escape(row.label), escape(row.params), *values, runs]


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
    if column in (AVERAGE, GAIN, PROBABILITY) and estimate.half_width is not None:
        text += f" ± {estimate.half_width:.1f}"
    if column == AVERAGE and row.averaged is not None:
        text += f" (of {len(row.averaged)})"
    return text
