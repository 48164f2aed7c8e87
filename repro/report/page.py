"""One static HTML page with all tables, figures, runs, claims and the audit; needs no server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from repro.analysis.audit import AuditItem
from repro.analysis.claims import Scored
from repro.plans.plan import Plan, PlannedRow
from repro.report.claims import verdict_in_words
from repro.report.formats import cell_texts
from repro.report.tables import Table, TableGroup, TableRow, build_table
from repro.runs.result import Result
from repro.runs.states import RunState

_TEMPLATE = Path(__file__).with_name("page.html")

# Points of a learning curve on the page, where it is 300 pixels wide.
_CURVE_POINTS = 200


def build_page(
    plans: Sequence[tuple[Plan, Sequence[RunState]]],
    figures: Path,
    claims: Sequence[Scored],
    audit: Sequence[AuditItem],
) -> str:
    """The HTML text.

    Args:
        plans: every experiment under one profile, with the states of its runs.
        figures: folder of that profile's figures; missing ones are skipped.
    """
    runs = {s.spec.hash: _run(s) for _, states in plans for s in states}
    profile = plans[0][0].profile
    finished = sum(run["state"] == "done" for run in runs.values())
    sections = [_experiment(plan, states, figures) for plan, states in plans]
    content = {
        "title": f"Dual LoRA, reproduced: profile {profile.name}",
        "watermark": f'<p class="watermark">{escape(profile.watermark)}</p>' if profile.watermark else "",
        "summary": escape(f"{profile.purpose}. {finished} of {len(runs)} runs are finished."),
        "contents": "".join(
            f'<li><a href="#{escape(plan.experiment.name)}">{escape(plan.experiment.title)}</a></li>'
            for plan, _ in plans
        ),
        "experiments": "\n".join(sections),
        "claims": _claims(claims),
        "audit": _audit(audit),
        "environments": _environments(s.result for _, states in plans for s in states if s.result),
        # "</script>" inside a string would end the script.
        "runs": json.dumps(runs, separators=(",", ":")).replace("</", "<\\/"),
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    for name, text in content.items():
        page = page.replace(f"%{name}%", text)
    return page


def _experiment(plan: Plan, states: Sequence[RunState], figures: Path) -> str:
    table = build_table(plan, states)
    paths = [figures / f"{plan.experiment.name}{part}.svg" for part in ("", "-diagnostics")]
    drawn = "".join(f'<div class="figure">{_inline(path)}</div>' for path in paths if path.exists())
    return "\n".join(
        [
            f'<section id="{escape(table.name)}"><h2>{escape(table.title)}</h2>',
            _table(table, plan),
            '<div class="detail"></div>',
            drawn,
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in table.notes) + "</ul></section>",
        ]
    )


def _inline(svg: Path) -> str:
    """The SVG without XML header, its ids prefixed, since all figures of a page share one namespace."""
    text = svg.read_text(encoding="utf-8")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{svg.stem}-", text[text.index("<svg") :])


def _table(table: Table, plan: Plan) -> str:
    headings = ["Method", table.params, *table.columns.values(), "runs"]
    planned = {(row.block, row.id): row for row in plan.rows}
    lines = ["<table><tr>" + "".join(f"<th>{escape(heading)}</th>" for heading in headings) + "</tr>"]
    for group in table.groups:
        lines.append(f'<tr class="group"><td colspan="{len(headings)}">{escape(group.heading)}</td></tr>')
        lines += [_row(table, group, row, planned.get((group.block, row.id))) for row in group.rows]
    return "\n".join([*lines, "</table>"])


def _row(table: Table, group: TableGroup, row: TableRow, planned: PlannedRow | None) -> str:
    texts = cell_texts(table, row)
    cells = [f"<td>{escape(text)}</td>" for text in texts]
    for position, column in enumerate(table.columns, 2):
        if column in row.bold:
            cells[position] = f"<td><b>{escape(texts[position])}</b></td>"
    for position, column in enumerate(table.columns, 2):
        if group.source != "measured" or planned is None or row.values.get(column) is None:
            continue
        specs = planned.specs_for(column) or planned.specs
        hashes = " ".join(spec.hash for spec in specs)
        difference = _difference(table, group, column, row)
        cells[position] = (
            f'<td class="cell {difference[0]}" data-runs="{hashes}" data-column="{escape(column)}" '
            f'title="{escape(difference[1])}">{escape(texts[position])}</td>'
        )
    return f'<tr class="{group.source}">' + "".join(cells) + "</tr>"


def _difference(table: Table, group: TableGroup, column: str, row: TableRow) -> tuple[str, str]:
    """CSS class and tooltip of a cell, with the difference to the paper's value where there is one."""
    own = row.values[column]
    for other in table.groups:
        if other.source == "paper" and other.block == group.block:
            for printed in other.rows:
                paper = printed.values.get(column)
                if paper is not None and own is not None and printed.id == row.id:
                    distance = own.mean - paper.mean
                    kind = "near" if abs(distance) < 1 else "above" if distance > 0 else "below"
                    return kind, f"{distance:+.1f} from the paper's {paper.mean:g}; click for the runs"
    return "", "click for the runs"


def _run(state: RunState) -> dict[str, Any]:
    """What the page shows of a run when its cell is clicked."""
    told: dict[str, Any] = {
        "title": state.spec.title,
        "slug": state.spec.slug,
        "state": str(state.state),
        "detail": state.detail,
    }
    result = state.result
    if result is None:
        return told
    losses = result.training.losses
    step = max(1, len(losses) // _CURVE_POINTS)
    return told | {
        "seconds": round(result.total_seconds),
        "steps": result.training.steps,
        "losses": [round(loss, 4) for loss in losses[::step]],
        "every": step,
        "commit": (result.environment.commit or "")[:10],
        "warnings": list(result.warnings),
        "settings": json.dumps(result.spec["method"]) + " " + json.dumps(result.spec["training"]),
        "scores": {
            name: {
                "metric": score.metric,
                "value": score.value,
                "items": score.items,
                "outcomes": score.outcomes if isinstance(score.outcomes, str) else "",
            }
            for name, score in result.scores.items()
        },
    }


def _claims(scored: Sequence[Scored]) -> str:
    lines = ["<table><tr><th>claim</th><th>in the paper</th><th>verdict</th></tr>"]
    for s in scored:
        lines.append(
            f"<tr><td>{escape(s.claim.text)}</td><td>{escape(s.claim.where)}</td>"
            f'<td class="{s.verdict.replace(" ", "-")}">{escape(verdict_in_words(s))}</td></tr>'
        )
    return "\n".join([*lines, "</table>"])


def _audit(items: Sequence[AuditItem]) -> str:
    lines = ["<table><tr><th>kind</th><th>where</th><th>finding</th><th>what is done here</th></tr>"]
    lines += [
        f"<tr><td>{item.kind}</td><td>{escape(item.where)}</td><td>{escape(item.found)}</td>"
        f"<td>{escape(item.here)}</td></tr>"
        for item in items
    ]
    return "\n".join([*lines, "</table>"])


def _environments(results: Iterable[Result]) -> str:
    """Every combination of machine, versions and commit of the page's runs, with its number of runs."""
    counts: dict[str, int] = {}
    for result in results:
        e = result.environment
        commit = (e.commit or "outside a checkout")[:10] + (" with uncommitted changes" if e.dirty else "")
        versions = ", ".join(f"{name} {version}" for name, version in e.packages.items())
        machine = f"{e.hardware}, {e.threads} threads, {e.platform}"
        told = f"{machine}, Python {e.python}, {versions}, code {commit}"
        counts[told] = counts.get(told, 0) + 1
    return "".join(f"<li>{escape(told)} ({count} runs)</li>" for told, count in counts.items())
