"""Markdown pages of the audit of the paper and of its parameter columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from repro.analysis.audit import (
    AuditItem,
    Average,
    Bold,
    Copied,
    FromSource,
    audit_items,
    averages,
    bold_errors,
    copied_rows,
    explanation,
    sources,
)
from repro.analysis.claims_on_paper import OnPaper
from repro.analysis.paper import PaperRow
from repro.analysis.parameters import ParameterEntry
from repro.report.formats import markdown_table

_HEADINGS = {
    "average": "Averages",
    "parameters": "Printed parameter counts",
    "source": "Rows compared with their sources",
    "bold": "Values in bold",
    "contradiction": "Contradictions",
    "ambiguity": "Missing information that a reproduction needs",
}


def audit_page(claims: Sequence[OnPaper]) -> str:
    """The audit page: checks recomputed from the paper's tables, and all items of `audit.yaml`.

    Args:
        claims: the ledger on the paper's own numbers, for the gains that the paper's text quotes.
    """
    recomputed = {
        "average": _averages(list(averages())),
        "source": [*_sources(list(sources())), "", *_copied(list(copied_rows()))],
        "bold": _bold(list(bold_errors())),
    }
    lines = [
        "# Audit of the paper",
        "",
        "Dual LoRA (arXiv 2512.03402): errors, missing information, and what this project does about each. "
        "Computed from `results/paper/` in exact decimals.",
    ]
    for kind, heading in _HEADINGS.items():
        lines += ["", f"## {heading}", "", *recomputed.get(kind, [])]
        items = [_item(item) for item in audit_items() if item.kind == kind]
        lines += ["", *items] if kind in recomputed else items
        if kind == "average":
            lines += ["", "## Gains that the text quotes", "", *_gains(claims)]
    return "\n".join(lines) + "\n"


def _item(item: AuditItem) -> str:
    source = f" Source: {item.source}." if item.source else ""
    return f"- **{item.where}.** {_sentence(item.found)}{source} *Here:* {item.here}."


def _averages(found: Sequence[Average]) -> list[str]:
    off = [average for average in found if average.verdict != "equal"]
    return [
        f"{len(found)} rows print an average; {len(found) - len(off)} of them equal the mean of their cells.",
        "",
        *markdown_table(
            ["row", "printed", "mean of its cells", ""],
            [[_place(a.row), str(a.printed), f"{a.mean:.4f}", _VERDICTS[a.verdict]] for a in off],
        ),
    ]


_VERDICTS = {"boundary": "half way between two roundings", "differs": "differs"}


def _gains(claims: Sequence[OnPaper]) -> list[str]:
    """Gains of Dual LoRA on one base model that the text quotes, next to the smallest by the tables."""
    rows = []
    for one in claims:
        differences = [pair.difference for pair in one.pairs if isinstance(pair.difference, Decimal)]
        quoted = [comparison.at_least for comparison in one.claim.comparisons if comparison.at_least]
        if one.claim.models and quoted and differences:
            agrees = "" if min(differences) == Decimal(str(quoted[0])) else "differs"
            rows.append([one.claim.text, one.claim.where, f"{quoted[0]:g}", str(min(differences)), agrees])
    wrong = sum(row[-1] != "" for row in rows)
    said = "all of them are" if not wrong else f"{len(rows) - wrong} are"
    return [
        f"{len(rows)} gains; {said} the difference of two printed averages.",
        "",
        *markdown_table(["statement", "in the paper", "quoted", "by the table", ""], rows),
    ]


def _sources(found: Sequence[FromSource]) -> list[str]:
    cells, off = sum(f.compared for f in found), sum(len(f.differing) for f in found)
    return [
        f"{cells} cells of {len(found)} rows have a source; {off} differ from it by more than rounding. "
        "Differences are paper minus source; `results/paper/README.md` names the sources.",
        "",
        *markdown_table(
            ["row", "source", "cells", "differ", "differences"],
            [
                [_place(f.row), f.source.source, str(f.compared), str(len(f.differing)), _differences(f)]
                for f in found
            ],
        ),
    ]


def _differences(found: FromSource) -> str:
    return ", ".join(f"{column} {a - b:+}" for column, (a, b) in found.differing.items())


def _copied(found: Sequence[Copied]) -> list[str]:
    pairs = [
        [
            f"{c.one.table}, {c.one.block}",
            c.one.label,
            c.other.label,
            f"{len(c.equal)} of {c.compared}: {', '.join(c.equal)}",
        ]
        for c in found
    ]
    return [
        "Rows of one base model with at least half of their cells equal:",
        "",
        *markdown_table(["in", "row", "row", "equal"], pairs),
    ]


def _bold(found: Sequence[Bold]) -> list[str]:
    return [
        f"In {len(found)} columns the bold values are not the highest ones.",
        "",
        *markdown_table(
            ["in", "column", "bold", "highest"],
            [[f"{b.table}, {b.block}", b.column, _labels(b.bold), _labels(b.best)] for b in found],
        ),
    ]


def _labels(rows: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{label} {value}" for label, value in rows.items())


def _place(row: PaperRow) -> str:
    return f"{row.table}, {row.block}, {row.label}"


def parameters_page(entries: Sequence[ParameterEntry]) -> str:
    """The paper's parameter columns next to the counts, with the reason where they disagree."""
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
    # The last column is prose and not padded.
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
                "# Trained parameters, recounted",
                "",
                "Classification heads are not counted, as in the paper. `built`: counted on an adapter "
                "attached to a model without weights; `formula`: attaching the adapter needs data.",
                "",
                line(header),
                "|" + "|".join("-" * (w + 2) for w in widths) + "|---|",
                *(line(row) for row in rows),
                "",
                f"{agreeing} of {len(entries)} printed entries equal the count.",
            ]
        )
        + "\n"
    )


def _why(entry: ParameterEntry) -> str:
    item = explanation(entry.table, entry.block, entry.row)
    return "unexplained" if item is None else _sentence(item.found)


def _sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    text = text.strip()
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
