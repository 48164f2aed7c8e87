"""Markdown pages of the claims ledger: tested on finished runs, and on the paper's own numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from repro.analysis.claims_on_paper import OnPaper, PrintedPair
from repro.analysis.ledger import Ledger
from repro.analysis.verdicts import LEVEL, PValues, Scored, Tested, Verdict
from repro.plans.profile import Profile
from repro.report.formats import markdown_table


def claims_page(ledger: Ledger, scored: Sequence[Scored], profiles: Sequence[Profile]) -> str:
    """The verdicts, then the comparisons and counts behind them.

    Args:
        profiles: those whose runs the claims are tested on.
    """
    lines = [f"# The paper's claims, profile {' and '.join(profile.name for profile in profiles)}", ""]
    lines += [line for one in profiles if one.watermark for line in (f"**{one.watermark}**", "")]
    counts = Counter(s.verdict for s in scored)
    lines += [
        f"{len(scored)} statements: " + ", ".join(f"{n} {v}" for v, n in counts.most_common()) + ".",
        "",
    ]
    verdicts = [
        [s.claim.text, s.claim.where, verdict_in_words(s), *_ps(s), wanted_in_words(s)] for s in scored
    ]
    lines += markdown_table(
        ["claim", "in the paper", "verdict", "p, holds", "p, fails", "p, equal", "needed to decide"], verdicts
    )
    pairs = [pair for s in scored for t in s.tested for pair in _pairs(s, t)]
    if pairs:
        head = [
            "claim",
            "model",
            "better",
            "worse",
            "column",
            "measure",
            "claimed",
            "difference",
            "p, holds",
            "p, fails",
        ]
        lines += ["", "## Comparisons", "", *markdown_table([*head, "p, equal", "runs", "collapsed"], pairs)]
    facts = [[s.claim.id, f.block, f.of, f.found, _YES[f.holds]] for s in scored for f in s.facts]
    if facts:
        lines += [
            "",
            "## Counts",
            "",
            *markdown_table(["claim", "model", "row", "found", "as claimed"], facts),
        ]
    return "\n".join([*lines, "", *_notes(ledger)]) + "\n"


_YES = {True: "yes", False: "no", None: ""}
_WORDS: dict[Verdict, str] = {"equal": "equal within the margin"}


def verdict_in_words(scored: Scored) -> str:
    """The verdict, the reason if nothing was tested, and how many comparisons are as claimed."""
    claim, verdict = scored.claim, scored.verdict
    if verdict == "by formula":
        return f"by formula: {claim.by_formula}"
    if verdict == "not tested":
        lacking = "not measured by `make bench`" if claim.overhead else "no finished runs"
        return f"not tested: {claim.unmeasured or scored.untouched or lacking}"
    words = _WORDS.get(verdict, verdict)
    if scored.decided_by == "probability":
        words += " by probability"
    if scored.disagreement is not None:
        other = _WORDS.get(scored.disagreement, scored.disagreement)
        words += f" by accuracy, {other} by probability: accuracy and probability disagree"
    where = f"; measured on {scored.where}" if scored.where else ""
    if scored.facts:
        known = [fact.holds for fact in scored.facts if fact.holds is not None]
        return f"{words} (counted; as claimed in {sum(known)} of {len(scored.facts)}{where})"
    if len(scored.tested) == 1:
        return words + where
    inside = sum(
        t.at_least < t.difference.mean < (t.at_most or float("inf"))
        for t in scored.by(scored.decided_by)
        if t.difference
    )
    return f"{words} (as claimed in {inside} of {len(scored.tested)} comparisons{where})"


def wanted_in_words(scored: Scored) -> str:
    """What would decide an undecided claim: seeds or items, and runs for comparisons that have none."""
    lacking = sum(t.difference is None for t in scored.tested) if scored.verdict == "undecided" else 0
    runs = f"runs for {lacking} of its {len(scored.tested)} comparisons" if lacking else ""
    found = scored.wanted
    if found is None:
        return runs
    if scored.claim.overhead:
        return f"{found.items:,} rounds" if found.items else "more than 500 rounds"
    one_seed = any(t.spread is not None and t.spread.runs == 1 for t in scored.tested)
    options = [f"{found.seeds} seeds"] if found.seeds else []
    options += [f"{found.items:,} items per task"] if found.items else []
    if len(options) < 2 and found.both:
        options.append(f"{found.both[0]} seeds and {found.both[1]:,} items per task")
    if not options:
        data = "more than 100 seeds and 1,000 times the items"
    else:
        data = ("at least " if one_seed or lacking else "") + ", or ".join(options)
    return f"{data}; and {runs}" if runs else data


def _ps(scored: Scored) -> list[str]:
    """Of the three nulls, each by score and by probability."""

    def told(null: Callable[[PValues], float]) -> str:
        return " / ".join(f"{null(found):.3f}" for found in scored.p_values.values())

    return [told(lambda p: p.holds), told(lambda p: p.fails), told(lambda p: p.equal)]


def _pairs(scored: Scored, t: Tested) -> Iterator[list[str]]:
    """A comparison's line, and by probability another."""
    yield _pair(scored, t, "" if scored.claim.overhead else "score")
    if t.by_probability is not None and t.by_probability.difference is not None:
        yield _pair(scored, t.by_probability, "probability")


def _pair(scored: Scored, t: Tested, measure: str) -> list[str]:
    claimed = f"≥ {t.at_least:g}" if t.at_least else "> 0"
    claimed += f", < {t.at_most:g}" if t.at_most else ""
    cells = [scored.claim.id, t.block, t.better, t.worse, t.column or "average", measure, claimed]
    if t.difference is None:
        return [*cells, "-", "", "", "", "0", str(t.collapsed)]
    width = "" if t.difference.half_width is None else f" ± {_points(t.difference.half_width, t)}"
    cells.append(f"{t.difference.mean:+.{_decimals(t)}f}{width}")
    cells += [f"{p:.3f}" for p in (t.p_holds(), t.p_fails(), t.p_equal())]
    return [*cells, str(t.difference.runs), str(t.collapsed)]


def _points(value: float, t: Tested) -> str:
    return f"{value:.{_decimals(t)}f}"


def _decimals(t: Tested) -> int:
    """Decimals of a difference: two if the margin is 0.1, as for NIST and CIDEr."""
    return 2 if t.margin < 0.2 else 1


def _notes(ledger: Ledger) -> list[str]:
    margins = f"{ledger.margin:g} points" + "".join(f" ({v:g} for {k})" for k, v in ledger.margins.items())
    return [
        "- difference: better minus worse in points, of the average or of one column, paired by item and "
        "seed, with a 95 % interval over items and seeds (over items only with one seed). The variance "
        "between seeds is moderated by that of all rows of the same model and profile, so that the interval "
        "differs from a table's (`docs/statistics.md`).",
        "- measure: every comparison is tested by its score and, where its runs have it, by the probability "
        "of the gold answers in percent, with the same claimed points and margin. It is sharper, since a "
        "gain counts before an item turns right. E2E's metrics and STS-B have no such probability and count "
        "by their score. A verdict is by accuracy where that decides the claim, and else by probability, "
        "and then says so; where both decide and differ, it says that accuracy and probability disagree. A "
        "second p-value after a slash is by probability.",
        f"- verdict, at the level of {LEVEL:.0%}: reproduced if 'not as claimed' is rejected in all "
        "comparisons, contradicted if 'as claimed' is rejected in one, equal if 'apart by the margin or "
        f"more' is rejected both ways in all. The margin is {margins}, and at most half of the claimed "
        "difference. A claim with a number is tested at that number: to show a gain of 0.8, 'better' is not "
        "enough. p-values of claims are corrected for their comparisons and for all claims and measures on "
        "this page (Holm); p-values of comparisons are not.",
        "- needed to decide: total seeds with the present items, or items per task with the present seeds, "
        "at the corrected level, if differences and spreads stay as they are; the fewest by either measure. "
        "One seed decides nothing; of one this is a lower bound, since the spread between seeds is unknown. "
        "Where comparisons have no runs, it is a lower bound too, since it is for the others.",
        "- a claim about time is tested on the rounds of `make bench`: its difference is how far the "
        "measured overhead is on the claimed side, in percent of the other method, by Wilcoxon's signed-rank "
        "test on the logarithms of the ratios, and its runs are rounds. A GPU's bench counts where there is "
        "one among the results, otherwise the one with the most rounds; the verdict says what was measured.",
        "- counts have no p-value: sizes of the paper's own models from their shapes; ranks and zeros in "
        "finished runs, as means over layers and seeds; bytes.",
        "- a claim about one base model is not tested on its stand-in; the general claim next to it is.",
        "- collapsed: runs that failed, or gave one answer to every item of a task. The latter are included "
        "in the means.",
    ]


def paper_claims_page(found: Sequence[OnPaper]) -> str:
    """Every claim with the paper's own numbers, then the pairs of rows that do not or barely support it."""
    counts = Counter(one.verdict for one in found)
    lines = [
        "# The paper's claims on its own numbers",
        "",
        f"{len(found)} statements: " + ", ".join(f"{n} {v}" for v, n in counts.most_common()) + ".",
        "",
        *markdown_table(
            ["claim", "in the paper", "verdict on its tables", "difference"],
            [[one.claim.text, one.claim.where, _on_paper(one), _range(one)] for one in found],
        ),
    ]
    failing = [_printed(one, pair) for one in found for pair in one.pairs if not pair.holds]
    head = ["claim", "model", "better", "worse", "column", "printed"]
    if failing:
        lines += ["", "## Rows that do not support their claim", "", *markdown_table(head, failing)]
    close = [
        [*_printed(one, pair), f"{pair.by_seeds:.2f}"]
        for one in found
        for pair in one.pairs
        if pair.within_seeds and pair.by_seeds is not None
    ]
    if close:
        lines += [
            "",
            "## Margins below the published spread over seeds",
            "",
            *markdown_table([*head, "by seeds alone"], close),
        ]
    return (
        "\n".join(
            [
                *lines,
                "",
                "- supported: all printed rows that the claim is about agree with it, to the digit. Sizes "
                "are the printed ones. A tie does not support 'better'.",
                "- by seeds alone: 95 % of differences between two runs of one method are smaller than this, "
                "by the standard deviations over seeds that the LoRA paper publishes for LoRA on the same "
                "base model (`results/paper/spread.csv`). The paper prints no spread. Where no other is "
                "published, as on LLaMA, the column is empty.",
                "- no number: the paper's tables have none for this claim, as for ranks, time and memory.",
            ]
        )
        + "\n"
    )


def _on_paper(one: OnPaper) -> str:
    if one.verdict == "no number":
        return one.verdict
    words: str = one.verdict
    if one.verdict == "not supported":
        words += f" ({sum(not pair.holds for pair in one.pairs)} of {len(one.pairs)} rows disagree)"
    within = sum(pair.within_seeds for pair in one.pairs)
    if within:
        what = "which is" if len(one.pairs) == 1 else f"{within} of {len(one.pairs)}"
        words += f", {what} below the published spread over seeds"
    return words


def _range(one: OnPaper) -> str:
    differences = [pair.difference for pair in one.pairs if isinstance(pair.difference, Decimal)]
    if not differences:
        return ""
    least, most = min(differences), max(differences)
    return f"{least:+.4g}" if least == most else f"{least:+.4g} to {most:+.4g}"


def _printed(one: OnPaper, pair: PrintedPair) -> list[str]:
    shown = pair.difference if isinstance(pair.difference, str) else f"{pair.difference:+.4g}"
    return [one.claim.id, pair.block, pair.better, pair.worse, pair.column, shown]
