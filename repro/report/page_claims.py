"""The claims of the page: sentence, verdict, its intervals as a picture, and what would decide it."""

from __future__ import annotations

from collections.abc import Sequence

from repro.analysis.verdicts import Scored, Tested
from repro.report.claims import verdict_in_words, wanted_in_words
from repro.report.page_tables import escape

# The picture's width, the room on both sides, and the height of one comparison, in pixels.
_WIDTH, _EDGE, _LINE = 260, 8, 7

_HEADINGS = ("claim", "verdict", "difference, 95 % interval", "would decide it")


def claims_html(scored: Sequence[Scored]) -> str:
    """All claims, those with comparisons first, in the paper's order."""
    lines = [
        '<table class="claims"><thead><tr>'
        + "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
        + "</tr></thead><tbody>"
    ]
    for s in sorted(scored, key=lambda s: s.verdict in ("by formula", "not tested")):
        lines.append(
            f"<tr><td>{escape(s.claim.text)} <small>{escape(s.claim.where)}</small></td>"
            f'<td class="verdict {s.verdict.replace(" ", "-")}">{escape(verdict_in_words(s))}</td>'
            f"<td>{_evidence(s)}</td><td>{escape(_wanted(s))}</td></tr>"
        )
    return "\n".join([*lines, "</tbody></table>"])


def _wanted(s: Scored) -> str:
    """What would decide an undecided claim: the runs that it lacks, then more of the same."""
    lacking = sum(t.difference is None for t in s.tested)
    if s.verdict == "undecided" and lacking:
        return f"the runs of {lacking} comparison{'s' * (lacking > 1)} that have none"
    return wanted_in_words(s)


def _evidence(s: Scored) -> str:
    """The picture, and its numbers below it where one asks for them."""
    rows = [_told(t) for t in s.tested]
    rows += [
        f"by probability: {_told(t.by_probability)}"
        for t in s.tested
        if t.by_probability and t.by_probability.difference
    ]
    rows += [
        f"{fact.block}, {fact.of}: {fact.found}"
        + {True: " (as claimed)", False: " (not as claimed)", None: ""}[fact.holds]
        for fact in s.facts
    ]
    if not rows:
        return ""
    tested = len(s.tested)
    count = f"{tested} comparison{'s' * (tested > 1)}" if tested else f"{len(rows)} counted"
    listed = "".join(f"<li>{escape(row)}</li>" for row in rows)
    return f"{_picture(s)}<details><summary>{count}</summary><ul>{listed}</ul></details>"


def _told(t: Tested) -> str:
    pair = f"{t.better} minus {t.worse}, {t.column or 'average'}, {t.block}: "
    if t.difference is None:
        return f"{pair}no common runs"
    width = "" if t.difference.half_width is None else f" ± {t.difference.half_width:.2f}"
    return f"{pair}{t.difference.mean:+.2f}{width}, {t.difference.runs} runs"


def _picture(s: Scored) -> str:
    """One line for each comparison, over what is claimed (shaded) and no difference (the upright line).

    By the measure of the verdict.
    """
    found = [(t, t.difference) for t in s.by(s.decided_by) if t.difference is not None]
    if not found:
        return ""
    reach = [abs(d.mean) + (d.half_width or 0) for _, d in found]
    reach += [t.at_most or t.at_least for t, _ in found]
    scale = max(*reach, 1e-9)

    def x(value: float) -> str:
        return f"{_EDGE + (min(1, max(-1, value / scale)) + 1) / 2 * (_WIDTH - 2 * _EDGE):.1f}"

    height = _LINE * len(found) + 16
    least, most = found[0][0].at_least, found[0][0].at_most
    right = scale if most is None else most
    parts = [
        f'<rect class="claimed" x="{x(least)}" y="0" width="{float(x(right)) - float(x(least)):.1f}" '
        f'height="{height - 14}"/>',
        f'<path class="zero" d="M{x(0)} 0V{height - 14}"/>',
    ]
    for place, (t, d) in enumerate(found):
        y = _LINE * place + 4
        half = d.half_width or 0
        parts.append(
            f'<g class="comparison"><title>{escape(_told(t))}</title><path d="M{x(d.mean - half)} {y}'
            f'H{x(d.mean + half)}"/><circle cx="{x(d.mean)}" cy="{y}" r="2.5"/></g>'
        )
    for value, anchor in ((-scale, "start"), (0.0, "middle"), (scale, "end")):
        text = f"{value:+.2g}" if value else "0"
        parts.append(f'<text x="{x(value)}" y="{height - 2}" text-anchor="{anchor}">{text}</text>')
    by = " by probability" if s.decided_by == "probability" else ""
    told = f"{len(found)} differences{by}; claimed is the shaded side"
    return (
        f'<svg role="img" aria-label="{told}" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'
    )
