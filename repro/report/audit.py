"""The audit of the paper and its parameter columns, each as one page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from repro.analysis.audit import AuditItem, Average, explanation
from repro.analysis.parameters import ParameterEntry

_HEADINGS = {
    "average": "Averages",
    "parameters": "Printed parameter counts",
    "source": "Rows that differ from the works they are taken from",
    "contradiction": "Statements that cannot both hold",
    "ambiguity": "What has to be known to repeat the work, and is not said",
}


def audit_page(items: Sequence[AuditItem], averages: Sequence[Average]) -> str:
    """Every item under its heading, and the averages that were recomputed."""
    off = [average for average in averages if average.verdict != "equal"]
    lines = [
        "# Audit of the paper",
        "",
        "Dual LoRA (arXiv 2512.03402): what does not add up, what it leaves open, what is done here.",
        "",
        f"{len(averages)} rows of Tables 1 and 2 have every cell at hand; of their averages "
        f"{len(averages) - len(off)} are those of their cells.",
    ]
    for kind, heading in _HEADINGS.items():
        lines += ["", f"## {heading}", ""]
        if kind == "average" and off:
            lines += ["| row | printed | own mean | |", "|---|---:|---:|---|"]
            for a in off:
                place = " ".join(filter(None, [f"{a.table}, {a.block}, {a.method}", a.rank]))
                lines.append(f"| {place} | {a.printed} | {a.mean:.4f} | {_VERDICTS[a.verdict]} |")
            lines.append("")
        for item in items:
            if item.kind == kind:
                source = f" Source: {item.source}." if item.source else ""
                lines.append(f"- **{item.where}.** {_sentence(item.found)}{source} *Here:* {item.here}.")
    return "\n".join(lines) + "\n"


_VERDICTS = {"boundary": "half way between two roundings", "differs": "differs"}


def parameters_page(entries: Sequence[ParameterEntry]) -> str:
    """The paper's parameter columns beside the counts, with the reason where they disagree."""
    header = ["table", "model", "row", "printed", "counted", "trained", "by", "", "why"]
    rows = [
        [
            entry.table,
            entry.block,
            entry.label,
            f"{entry.printed} {entry.unit}",
            f"{entry.recomputed} {entry.unit}",
            f"{entry.count:,}",
            entry.built,
            "" if entry.agrees else "differs",
            "" if entry.agrees else _why(entry),
        ]
        for entry in entries
    ]
    # The last column is prose: aligned to nothing.
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header) - 1)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=False))
        ]
        return "| " + " | ".join([*padded, cells[-1]]) + " |"

    agreeing = sum(entry.agrees for entry in entries)
    return (
        "\n".join(
            [
                "# Trained parameters, counted again",
                "",
                "Heads of classifiers are not counted, as in the paper. `built`: the adapter was attached to "
                "a model without weights; `formula`: where that needs data.",
                "",
                line(header),
                "|" + "|".join("-" * (w + 2) for w in widths) + "|---|",
                *(line(row) for row in rows),
                "",
                f"{agreeing} of {len(entries)} printed entries are the count.",
            ]
        )
        + "\n"
    )


def _why(entry: ParameterEntry) -> str:
    item = explanation(entry.table, entry.block, entry.method, entry.rank, entry.paper_label)
    return "unexplained" if item is None else _sentence(item.found)


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
