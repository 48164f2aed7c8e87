"""One static HTML page with all tables, figures, runs, claims and the audit; needs no server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from repro.analysis.audit import AuditItem
from repro.analysis.verdicts import Scored
from repro.plans.plan import Plan
from repro.report.norms import TITLE as NORMS
from repro.report.page_claims import claims_html
from repro.report.page_data import Planned, finite, page_data
from repro.report.page_tables import escape, table_html
from repro.report.tables import Table, build_table
from repro.runs.result import Result
from repro.runs.states import RunState, State
from repro.runs.store import Store
from repro.text import one_line

_TEMPLATE = Path(__file__).with_name("page.html")

# Characters of a page: what a mail or a browser's tab takes without thinking. Items fill what is left of it.
_MOST = 4_500_000


def build_page(
    plans: Planned,
    store: Store,
    figures: Path,
    claims: Sequence[Scored],
    audit: Sequence[AuditItem],
) -> tuple[str, list[str]]:
    """Everything that comes from results and settings is shown as text; only the page's own script runs.

    Args:
        plans: every experiment under one profile, with the states of its runs.
        store: the runs' folder, for their predictions.
        figures: folder of that profile's figures; missing ones are skipped.

    Returns:
        The HTML text, and one line for each figure that is left out since it is no picture.
    """
    problems: list[str] = []
    states = {s.spec.hash: s for _, found in plans for s in found}
    profile = plans[0][0].profile
    finished = sum(s.state is State.DONE for s in states.values())
    begun = sorted((pair for pair in plans if _has_begun(pair[1])), key=lambda pair: _place(pair[0]))
    waiting = sorted((plan for plan, found in plans if not _has_begun(found)), key=_place)
    tables = [build_table(plan, found) for plan, found in begun]
    shared = _shared_notes(tables)
    drawn = _figure(figures / "fig1.svg", _FIGURE_1, problems)
    sections = [
        _experiment(plan, table, shared, figures, problems)
        for (plan, _), table in zip(begun, tables, strict=True)
    ]
    if drawn:
        before = sum(_place(plan) < (1, "fig1") for plan, _ in begun)
        sections.insert(before, f'<section id="fig1"><h2>{_FIGURE_1}</h2>{drawn}</section>')
    drawn = _figure(figures / "norm.svg", NORMS, problems)
    if drawn:
        sections.append(f'<section id="norm"><h2>{NORMS}</h2>{drawn}</section>')
    script, style = (_TEMPLATE.with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    links = re.findall(r'<section id="([^"]*)"><h2>(.*?)</h2>', "\n".join(sections))
    content = {
        "policy": _policy(script, style),
        "title": escape(f"Dual LoRA, reproduced: profile {profile.name}"),
        "watermark": f'<p class="watermark">{escape(profile.watermark)}</p>' if profile.watermark else "",
        "summary": escape(f"{profile.purpose}. {finished} of {len(states)} runs are finished."),
        "contents": "".join(f'<li><a href="#{name}">{_short(title)}</a></li>' for name, title in links),
        "experiments": "\n".join(sections) or "<p>No experiment has begun.</p>",
        "claims": claims_html(claims),
        "audit": _audit(audit),
        "notes": _notes_html(shared),
        "environments": _environments(s.result for s in states.values() if s.result),
        "waiting": "".join(map(_waiting, waiting)) or "<li>none</li>",
        "script": script,
        "style": style,
    }
    size = sum(map(len, content.values())) + len(_TEMPLATE.read_text(encoding="utf-8"))
    content["data"] = embedded_json(page_data([*begun], store, _MOST - size))
    # In one pass, so that a placeholder inside a text stays text.
    text = _TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"%([a-z]+)%", lambda found: content[found[1]], text), problems


_FIGURE_1 = "Figure 1: a layer under LoRA and under Dual LoRA"


def _has_begun(states: Sequence[RunState]) -> bool:
    return any(state.state not in (State.MISSING, State.PENDING) for state in states)


def _place(plan: Plan) -> tuple[int, str]:
    """The paper's order: its tables, its figures, then what is ours."""
    kinds = ("table", "fig")
    name = plan.experiment.name
    return next((i for i, kind in enumerate(kinds) if name.startswith(kind)), len(kinds)), name


def _short(title: str) -> str:
    """A title up to its colon, or comma."""
    return re.split("[:,]", title, maxsplit=1)[0]


def embedded_json(content: Any) -> str:
    """JSON for a script element, whose end or comments it cannot contain; what is no number is null."""
    text = json.dumps(finite(content), separators=(",", ":"), allow_nan=False)
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})


def _policy(script: str, style: str) -> str:
    """The Content-Security-Policy: the page's own script and style, pictures as data, nothing else."""
    own, look = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (script, style))
    return (
        f"default-src 'none'; script-src 'sha256-{own}'; style-src 'sha256-{look}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _experiment(
    plan: Plan, table: Table, shared: dict[str, list[str]], figures: Path, problems: list[str]
) -> str:
    own = [note for note in table.notes if note not in shared]
    first, inside = (
        _figure(figures / f"{plan.experiment.name}{part}.svg", table.title, problems)
        for part in ("", "-diagnostics")
    )
    if inside:
        inside = f"<details><summary>The adapters during training</summary>{inside}</details>"
    numbers = f'<div class="scroll">{table_html(table, plan)}</div>'
    # A figure of the paper is a picture first.
    parts = [first, numbers] if plan.experiment.name.startswith("fig") else [numbers, first]
    notes = "".join(f"<li>{escape(note)}</li>" for note in own)
    return "\n".join(
        [
            f'<section id="{escape(table.name)}"><h2>{escape(table.title)}</h2>',
            *parts,
            inside,
            f'<details class="notes"><summary>Notes on this table</summary><ul>{notes}</ul></details>'
            if notes
            else "",
            "</section>",
        ]
    )


def _waiting(plan: Plan) -> str:
    told = f"{plan.experiment.title}: none of {len(plan.runs)} runs, "
    command = f"repro run {plan.experiment.name} --profile {plan.profile.name}"
    return f'<li id="{escape(plan.experiment.name)}">{escape(told)}<code>{escape(command)}</code></li>'


def _shared_notes(tables: Sequence[Table]) -> dict[str, list[str]]:
    """Notes of more than one table, with the titles of theirs."""
    found: dict[str, list[str]] = {}
    for table in tables:
        for note in dict.fromkeys(table.notes):
            found.setdefault(note, []).append(_short(table.title))
    return {note: titles for note, titles in found.items() if len(titles) > 1}


def _notes_html(shared: dict[str, list[str]]) -> str:
    """Each note once; the tables it is about are named where they are not all."""
    most = max((len(titles) for titles in shared.values()), default=0)
    return "".join(
        f"<li>{escape(note)}"
        + (f" <small>{escape(', '.join(titles))}</small>" if len(titles) < most else "")
        + "</li>"
        for note, titles in shared.items()
    )


def _figure(path: Path, title: str, problems: list[str]) -> str:
    """The figure as an image, in which no script runs; a line where the file is no SVG picture."""
    if not path.exists():
        return ""
    try:
        content = path.read_bytes()
        _check_svg(content)
    except (OSError, ValueError, expat.ExpatError) as error:
        problems.append(f"left out: {path.name} is no SVG picture ({error})")
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


def _audit(items: Sequence[AuditItem]) -> str:
    head = "".join(f'<th scope="col">{h}</th>' for h in ("kind", "where", "finding", "what is done here"))
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    lines += [
        f"<tr><td>{item.kind}</td><td>{escape(item.where)}</td><td>{escape(item.found)}</td>"
        f"<td>{escape(item.here)}</td></tr>"
        for item in items
    ]
    return "\n".join([*lines, "</tbody></table>"])


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
