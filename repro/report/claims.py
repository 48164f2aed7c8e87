"""The claims ledger as one page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from repro.analysis.claims import LEVEL, Ledger, Scored, Tested, seeds_to_settle
from repro.study.profile import Profile


def claims_page(ledger: Ledger, scored: Sequence[Scored], profile: Profile) -> str:
    """Verdicts first, then the comparisons behind them."""
    lines = [f"# The paper's claims, profile {profile.name}", ""]
    if profile.watermark:
        lines += [f"**{profile.watermark}**", ""]
    lines += ["| claim | in the paper | verdict | p, it holds | p, it fails |", "|---|---|---|---|---|"]
    for s in scored:
        ps = [f"{s.p_holds:.3f}", f"{s.p_fails:.3f}"] if s.tested else ["", ""]
        lines.append("| " + " | ".join([s.claim.text, s.claim.where, verdict_in_words(s), *ps]) + " |")
    lines += ["", "| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += [_line(s, t, ledger.margin_of(s.claim)) for s in scored for t in s.tested]
    return "\n".join([*lines, "", *_notes(ledger)]) + "\n"


def verdict_in_words(scored: Scored) -> str:
    """The verdict, and in how many of several comparisons the better row was ahead."""
    if scored.claim.unmeasured:
        return f"not tested: {scored.claim.unmeasured}"
    differences = [t.difference for t in scored.tested if t.difference]
    if not differences:
        lacking = (
            "`make bench` has not measured it" if scored.claim.overhead else "no finished runs to compare"
        )
        return f"undecided: {lacking}"
    if len(scored.tested) == 1:
        return scored.verdict
    ahead = sum(difference.mean > 0 for difference in differences)
    return f"{scored.verdict} (ahead in {ahead} of {len(scored.tested)} comparisons)"


_COLUMNS = [
    *("claim", "model", "better", "worse", "difference", "p, no better", "p, by the margin", "runs"),
    *("collapsed", "seeds to settle it"),
]


def _notes(ledger: Ledger) -> list[str]:
    return [
        "- difference: points of the mean over the columns, paired by item and seed, with its 95 % interval "
        "over items and seeds (over items alone where there is one seed).",
        f"- a claim is reproduced where 'no better' is rejected at {LEVEL:.0%} in all of its comparisons, "
        f"contradicted where 'better by the margin or more' is in one: {ledger.margin:g} points"
        + "".join(f", {c.margin:g} for '{c.id}'" for c in ledger.claims if c.margin is not None)
        + ". Its p-values are corrected for its comparisons and for all claims on this page (Holm), "
        "those of comparisons are not.",
        "- a claim about time is tested on the rounds of `make bench`: its difference is the time that was "
        "claimed less the time that was measured, in percent of the other method's, and its runs are rounds.",
        "- seeds to settle it: at least, if difference and spread stay as they are; none where seeds alone "
        "would not do it, or where the claim is settled.",
        "- collapsed: runs that failed, or gave one answer to every item of a task; the latter are part of "
        "the means.",
    ]


def _line(scored: Scored, t: Tested, margin: float) -> str:
    cells = [scored.claim.id, t.block, t.better, t.worse]
    if t.difference is None:
        cells += ["-", "", "", "0", str(t.collapsed), ""]
    else:
        width = "" if t.difference.half_width is None else f" ± {t.difference.half_width:.1f}"
        cells += [f"{t.difference.mean:+.1f}{width}", f"{t.p_no_better:.3f}", f"{t.p_by_margin:.3f}"]
        open_still = scored.verdict == "undecided" and scored.claim.overhead is None
        wanted = seeds_to_settle(t.difference, margin) if open_still else None
        cells += [str(t.difference.runs), str(t.collapsed), str(wanted or "")]
    return "| " + " | ".join(cells) + " |"
