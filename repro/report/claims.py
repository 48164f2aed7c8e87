"""The claims ledger as one page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from repro.analysis.claims import LEVEL, Claim, Ledger, Tested, verdict
from repro.study.profile import Profile


def claims_page(ledger: Ledger, tested: Sequence[Tested], profile: Profile) -> str:
    """Verdicts first, then the comparisons behind them."""
    by_claim = {claim.id: [t for t in tested if t.claim.id == claim.id] for claim in ledger.claims}
    lines = [f"# The paper's claims, profile {profile.name}", ""]
    if profile.watermark:
        lines += [f"**{profile.watermark}**", ""]
    lines += ["| claim | in the paper | verdict |", "|---|---|---|"]
    lines += [
        f"| {claim.text} | {claim.where} | {_verdict(claim, by_claim[claim.id])} |" for claim in ledger.claims
    ]
    lines += ["", "| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += [_line(t) for t in tested]
    return "\n".join([*lines, "", *_notes(ledger)]) + "\n"


_COLUMNS = [
    *("claim", "model", "better", "worse", "difference", "p, no better", "p, by the margin", "runs"),
    *("collapsed", "verdict"),
]


def _notes(ledger: Ledger) -> list[str]:
    return [
        "- difference: points of the mean over the columns, paired by item and seed, with its 95 % interval "
        "over items and seeds (over items alone where there is one seed).",
        f"- reproduced: 'no better' is rejected at {LEVEL:.0%}; contradicted: 'better by {ledger.margin:g} "
        "points or more' is. Both p-values are corrected for all comparisons on this page (Holm).",
        "- undecided with a number: so many seeds, at least, if difference and spread stay as they are.",
        "- collapsed: runs that failed, or gave one answer to every item of a task; the latter are part of "
        "the means.",
    ]


def _verdict(claim: Claim, tested: Sequence[Tested]) -> str:
    if claim.unmeasured:
        return f"not tested: {claim.unmeasured}"
    if not any(t.difference for t in tested):
        return "undecided: no finished runs to compare"
    found = verdict(tested)
    if len(tested) == 1:
        return found
    agreeing = sum(t.verdict == "reproduced" for t in tested)
    return f"{found} ({agreeing} of {len(tested)} comparisons reproduced)"


def _line(t: Tested) -> str:
    cells = [t.claim.id, t.block, t.better, t.worse]
    if t.difference is None:
        cells += ["-", "", "", "0"]
    else:
        width = "" if t.difference.half_width is None else f" ± {t.difference.half_width:.1f}"
        cells += [f"{t.difference.mean:+.1f}{width}", f"{t.p_no_better:.3f}", f"{t.p_by_margin:.3f}"]
        cells.append(str(t.difference.runs))
    more = f" ({t.seeds_wanted} seeds)" if t.seeds_wanted else ""
    return "| " + " | ".join([*cells, str(t.collapsed), t.verdict + more]) + " |"
