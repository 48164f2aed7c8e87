"""A summary of the claims for the page of the committed results, by verdict, with the finding of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from repro.analysis.claims_on_paper import OnPaper
from repro.analysis.ledger import Claim
from repro.analysis.verdicts import FEWEST_RUNS, Scored, Verdict
from repro.report.claims import wanted_in_words
from repro.report.escapes import markdown_prose

# Headings and their verdicts, in order.
_VERDICTS: dict[str, Verdict] = {
    "Reproduced at this scale": "reproduced",
    "Contradicted at this scale": "contradicted",
    "Equal within the margin": "equal",
    "Tested, not decided": "undecided",
    "Settled by formula": "by formula",
    "Not tested": "not tested",
}


def standing(scored: Sequence[Scored], scales: Callable[[Claim], Sequence[str]]) -> list[str]:
    """Lines of Markdown. Claims about models that the profiles do not have are counted, not listed.

    Args:
        scales: names of the profiles on whose runs a claim is tested; none if it needs no runs.
    """
    lines = []
    for heading, verdict in _VERDICTS.items():
        found = [s for s in scored if s.verdict == verdict]
        lines += [f"**{heading} ({len(found)} of {len(scored)})**", ""]
        told = [
            markdown_prose(f"- {s.claim.text} {_found(s)} ({', '.join([*scales(s.claim), s.claim.where])})")
            for s in found
            if not s.untouched
        ]
        untouched = [s for s in found if s.untouched]
        if untouched:
            models = dict.fromkeys(model for s in untouched for model in s.claim.models)
            told.append(
                f"- {len(untouched)} statements are about single base models that these profiles do not run "
                f"({', '.join(models)})."
            )
        lines += [*(told or ["- none"]), ""]
    return lines[:-1]


def on_paper(found: Sequence[OnPaper]) -> list[str]:
    """How many statements the paper's own tables support, in one sentence."""
    counts = Counter(one.verdict for one in found)
    close = sum(one.verdict == "supported" and any(pair.within_seeds for pair in one.pairs) for one in found)
    return [
        f"The paper's own tables (`make claims ARGS=--paper`) support {counts['supported']} of the "
        f"{len(found)} statements and do not support {counts['not supported']}; for {counts['no number']} "
        f"they have no number. {close} of the supported ones rest, in part, on a margin below the published "
        "spread over seeds."
    ]


def _found(s: Scored) -> str:
    """What was measured or counted for a claim, in words."""
    reason = s.claim.unmeasured or s.claim.by_formula
    if reason:
        return f"{reason[0].upper()}{reason[1:]}."
    if not s.has_data:
        return "No committed results yet."
    if s.facts and not s.tested:
        return _counted(s)
    return _timed(s) if s.claim.overhead else _compared(s)


def _counted(s: Scored) -> str:
    known = [fact for fact in s.facts if fact.holds is not None]
    failing = [fact for fact in known if not fact.holds]
    shown = "; ".join(f"{fact.of}: {fact.found}" for fact in (failing or known)[:2])
    so = sum(bool(fact.holds) for fact in known)
    shown += f"; `make bench` on {s.where}" if s.where else ""
    return f"As claimed in {so} of {len(known)} counts. {shown}." if len(known) > 1 else f"{shown}."


def _timed(s: Scored) -> str:
    differences = [(t, t.difference) for t in s.tested if t.difference]
    assert s.claim.overhead is not None
    measured = [
        f"{t.better}{f', {t.block}' if len(s.tested) > len(s.claim.overhead.ratios) else ''} "
        f"{s.claim.overhead.measured(difference.mean):+.0f}"
        f"{'' if difference.half_width is None else f' ± {difference.half_width:.0f}'} percent"
        for t, difference in differences
    ]
    decide = wanted_in_words(s)
    needed = f"; needed to decide: {decide}" if decide else ""
    return f"{'; '.join(measured)}; {differences[0][1].runs} rounds of `make bench` on {s.where}{needed}."


def _compared(s: Scored) -> str:
    differences = [(t, t.difference) for t in s.by(s.decided_by) if t.difference]
    of = ""
    if s.verdict == "contradicted" and len(differences) > 1:  # by one comparison
        of = f", the furthest from the claim of {len(differences)}"
        many = [pair for pair in differences if pair[1].runs >= FEWEST_RUNS]
        differences = [min(many, key=lambda pair: pair[0].p_fails())]
    seeds = min(difference.runs for _, difference in differences)
    counted = f"{seeds} seed" + ("s" if seeds > 1 else "")
    decide = wanted_in_words(s)
    decide = f"; needed to decide: {decide}" if decide else ""
    if s.disagreement is not None:
        decide += f"; accuracy and probability disagree: {s.disagreement} by probability"
    by = "By probability: " if s.decided_by == "probability" else ""
    claimed = max(t.at_least for t, _ in differences)
    least = f" (claimed: at least {claimed:g})" if claimed else ""
    if len(differences) == 1:
        t, difference = differences[0]
        width = "" if difference.half_width is None else f" ± {difference.half_width:.1f}"
        where = f" in {t.column}" if t.column else ""
        found = f"{t.better} minus {t.worse}{where}: {difference.mean:+.1f}{width} points{least}{of}"
    else:
        means = [difference.mean for _, difference in differences]
        found = (
            f"Ahead in {sum(mean > 0 for mean in means)} of {len(means)} comparisons, by {min(means):+.2g} "
        )
        found += f"to {max(means):+.2g}{least}"
    return f"{by}{found}; {counted}{decide}."
