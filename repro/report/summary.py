"""One paragraph to quote: how many claims hold, and how far Dual LoRA is from what it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from repro.analysis.ledger import Claim
from repro.analysis.verdicts import FEWEST_RUNS, Scored, Tested
from repro.report.escapes import markdown_prose

# The claims of one comparison each whose differences are told, by what they are about.
_TOLD = {
    "On commonsense reasoning": ("beats-lora", "beats-dora", "beats-hira"),
    "On GLUE": ("glue-over-lora", "glue-over-lora-plus", "glue-over-dora", "glue-over-fft"),
}


def summary(scored: Sequence[Scored], scales: Callable[[Claim], Sequence[str]]) -> list[str]:
    """The paragraph, in Markdown.

    Args:
        scales: names of the profiles on whose runs a claim is tested.
    """
    count = Counter(one.verdict for one in scored)
    tested = count["reproduced"] + count["contradicted"] + count["equal"] + count["undecided"]
    text = (
        f"Of {len(scored)} statements of the paper {tested} were tested at this scale: {count['reproduced']} "
        f"are reproduced, {count['contradicted']} contradicted, in {count['equal']} the rows are "
        f"equal within a point, and {count['undecided']} are not decided; "
        f"{count['by formula']} follow from a formula and {count['not tested']} were not tested. "
    )
    by_id = {one.claim.id: one for one in scored}
    for about, ids in _TOLD.items():
        found = [by_id[name] for name in ids if name in by_id]
        told = [_difference(tested) for one in found for tested in one.tested if tested.difference]
        if told:
            scale = ", ".join(dict.fromkeys(name for one in found for name in scales(one.claim)))
            text += f"{about} (`{scale}`) Dual LoRA differs from {'; from '.join(told)}. "
    return [markdown_prose(text.rstrip())]


def _difference(tested: Tested) -> str:
    """By how much the first row is above the second, by both measures."""
    found = [(tested, "points"), (tested.by_probability, "of probability")]
    means = [
        f"{one.difference.mean:+.1f}"
        f"{'' if one.difference.half_width is None else f' ± {one.difference.half_width:.1f}'} {unit}"
        for one, unit in found
        if one and one.difference
    ]
    assert tested.difference is not None
    seeds = tested.difference.runs
    told = f"{seeds} seeds" if seeds >= FEWEST_RUNS else "one seed, which decides nothing"
    return f"{tested.worse} by {' and '.join(means)} ({told})"
