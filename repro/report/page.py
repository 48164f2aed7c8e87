"""One static HTML page with all tables, figures, runs, claims and the audit; needs no server."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Any
from xml.parsers import expat

from repro.analysis.audit import AuditItem
from repro.analysis.claims import Scored
from repro.plans.plan import Plan, PlannedRow
from repro.report.claims import verdict_in_words
from repro.report.formats import cell_texts
from repro.report.tables import Table, TableGroup, TableRow, build_table
from repro.runs.result import Result
from repro.runs.states import RunState
from repro.text import one_line

_TEMPLATE = Path(__file__).with_name("page.html")

# Points of a learning curve on the page, where it is 300 pixels wide.
_CURVE_POINTS = 200


def build_page(
    plans: Sequence[tuple[Plan, Sequence[RunState]]],
    figures: Path,
    claims: Sequence[Scored],
    audit: Sequence[AuditItem],
) -> tuple[str, list[str]]:
    """Everything that comes from results and settings is shown as text; only the page's own script runs.

    Args:
        plans: every experiment under one profile, with the states of its runs.
        figures: folder of that profile's figures; missing ones are skipped.

    Returns:
        The HTML text, and one line for each figure that is left out since it is no picture.
    """
    problems: list[str] = []
    runs = {s.spec.hash: _run(s) for _, states in plans for s in states}
    profile = plans[0][0].profile
    finished = sum(run["state"] == "done" for run in runs.values())
    sections = [_experiment(plan, states, figures, problems) for plan, states in plans]
    template = _TEMPLATE.read_text(encoding="utf-8")
    content = {
        "policy": _policy(template),
        "title": escape(f"Dual LoRA, reproduced: profile {profile.name}"),
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
        "runs": embedded_json(runs),
    }
    # In one pass, so that a placeholder inside a text stays text.
    return re.sub(r"%([a-z]+)%", lambda found: content[found[1]], template), problems


def escape(text: str) -> str:
    """The text for HTML, on one line."""
    return escape_html(one_line(text))


def embedded_json(content: Any) -> str:
    """JSON for a script element, whose end or comments it cannot contain; what is no number is null."""
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _policy(template: str) -> str:
    """The Content-Security-Policy: the template's own script and style, pictures as data, nothing else."""
    hashes = {}
    for element in ("script", "style"):
        (own,) = re.findall(rf"<{element}>(.*?)</{element}>", template, flags=re.DOTALL)
        hashes[element] = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _experiment(plan: Plan, states: Sequence[RunState], figures: Path, problems: list[str]) -> str:
    table = build_table(plan, states)
    paths = [figures / f"{plan.experiment.name}{part}.svg" for part in ("", "-diagnostics")]
    drawn = "".join(_figure(path, table.title, problems) for path in paths if path.exists())
    return "\n".join(
        [
            f'<section id="{escape(table.name)}"><h2>{escape(table.title)}</h2>',
            _table(table, plan),
            '<div class="detail"></div>',
            drawn,
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in table.notes) + "</ul></section>",
        ]
    )


def _figure(path: Path, title: str, problems: list[str]) -> str:
    """The figure as an image, in which no script runs; a line where the file is no SVG picture."""
    try:
        content = path.read_bytes()
        _check_svg(content)
    except (OSError, ValueError, expat.ExpatError) as error:
        problems.append(f"left out: {path} is no SVG picture ({error}); `repro render` draws it again")
        return f'<p class="problem">{escape(problems[-1])}</p>'
    data = base64.b64encode(content).decode()
    return f'<div class="figure"><img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}"></div>'


def _check_svg(content: bytes) -> None:
    """Raises: ValueError, ExpatError: not well-formed XML, or its root is another element."""
    names: list[str] = []
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.StartElementHandler = lambda name, _: names.append(name) if not names else None
    parser.Parse(content, True)
    if names[0] != "http://www.w3.org/2000/svg svg":
        raise ValueError(f"its root is {one_line(names[0][:80])}")


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
    spec = state.spec.model_dump(mode="json")
    return told | {
        "seconds": result.total_seconds,
        "steps": result.training.steps,
        "losses": [round(loss, 4) for loss in losses[::step]],
        "every": step,
        "diverged": sum(not math.isfinite(loss) for loss in losses),
        "commit": (result.environment.commit or "")[:10],
        "warnings": list(result.warnings),
        "settings": json.dumps(spec["method"]) + " " + json.dumps(spec["training"]),
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
