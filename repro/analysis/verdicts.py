"""What a verdict on a claim is made of: its comparisons, its p-values, and the data that would decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from repro.analysis.facts import Fact
from repro.analysis.ledger import Claim
from repro.analysis.measures import Measure
from repro.analysis.statistics import Estimate, Spread

LEVEL = 0.05
"""Significance level of a verdict, after correction."""

FEWEST_RUNS = 2
"""Of fewer seeds a comparison decides nothing: its interval covers the choice of items alone. One seed of
LoRA missed STS-B on a small encoder (a correlation of 0.00, Dual LoRA 0.78), 24 points of an average."""

Verdict = Literal["reproduced", "contradicted", "equal", "undecided", "by formula", "not tested"]


@dataclass(frozen=True)
class Tested:
    """One comparison of two rows, or of a time with the claimed one.

    Attributes:
        column: the compared column; None for the average.
        at_least, at_most: bounds of the claimed difference.
        margin: rows whose difference is smaller are equal.
        difference: better minus worse, in points; None without a common seed. For times: how far the measured
            overhead is on the claimed side of the limit, in percent; its runs are rounds.
        spread: variance components of the difference, to project more seeds and items.
        collapsed: runs of the two rows that failed, or gave one answer to every item of some task.
        by_probability: the comparison by the probability of the gold answers; None if the column, of E2E or
            of a regression, has none.
    """

    block: str
    better: str
    worse: str
    column: str | None
    at_least: float
    at_most: float | None
    margin: float
    difference: Estimate | None
    spread: Spread | None = None
    collapsed: int = 0
    by_probability: Tested | None = None

    def p_holds(self, difference: Estimate | None = None) -> float:
        """p-value of the null "not as claimed", for `difference` or the measured one; 1 without data."""
        found = difference or self.difference
        if found is None:
            return 1.0
        above = found.p_above(self.at_most) if self.at_most is not None else 0.0
        return max(found.p_below(self.at_least), above)

    def p_fails(self, difference: Estimate | None = None) -> float:
        """p-value of the null "as claimed"."""
        found = difference or self.difference
        if found is None:
            return 1.0
        if self.at_most is None:
            return found.p_above(self.at_least)
        return min(1.0, 2 * min(found.p_above(self.at_least), found.p_below(self.at_most)))

    def p_equal(self, difference: Estimate | None = None) -> float:
        """p-value of the null "apart by at least the margin, either way"."""
        found = difference or self.difference
        return 1.0 if found is None else max(found.p_below(-self.margin), found.p_above(self.margin))


@dataclass(frozen=True)
class Wanted:
    """Data that would decide a claim if differences and spreads stay as they are; None if no amount would.

    Attributes:
        seeds: total number of seeds, with the present items.
        items: items per task, with the present seeds; for a claim about time, rounds.
        both: seeds and items per task, the pair with the smallest product.
    """

    seeds: int | None
    items: int | None
    both: tuple[int, int] | None


@dataclass(frozen=True)
class PValues:
    """Of a claim by one measure, corrected."""

    holds: float
    fails: float
    equal: float

    @property
    def verdict(self) -> Verdict:
        if self.holds <= LEVEL:
            return "reproduced"
        if self.fails <= LEVEL:
            return "contradicted"
        return "equal" if self.equal <= LEVEL else "undecided"


@dataclass(frozen=True)
class Scored:
    """A claim with its results.

    Attributes:
        tested, facts: its comparisons by score, and its counts.
        untouched: why the profile cannot test it; empty if it can.
        where: the device of the benchmark that a claim about time or memory is tested on, in words.
        p_values: by the measures that it is tested by.
        wanted: data that would decide it by one of them, if it is undecided.
    """

    claim: Claim
    tested: tuple[Tested, ...] = ()
    facts: tuple[Fact, ...] = ()
    untouched: str = ""
    where: str = ""
    p_values: Mapping[Measure, PValues] = field(default_factory=dict)
    wanted: Wanted | None = None

    @property
    def verdict(self) -> Verdict:
        if self.claim.by_formula:
            return "by formula"
        if self.untouched or self.claim.unmeasured or not self.has_data:
            return "not tested"
        if any(fact.holds is False for fact in self.facts):
            return "contradicted"
        if not self.tested:
            return "reproduced" if self.complete else "undecided"
        return self.p_values[self.decided_by].verdict if self.p_values else "undecided"

    @property
    def decided_by(self) -> Measure:
        """The measure of the verdict: probability only where it decides and the score does not."""
        by = {measure: found.verdict for measure, found in self.p_values.items()}
        undecided = by.get("score", "undecided") == "undecided"
        return "probability" if undecided and by.get("probability", "undecided") != "undecided" else "score"

    @property
    def disagreement(self) -> Verdict | None:
        """The verdict by probability where both measures decide, and differ."""
        other = self.p_values.get("probability")
        differs = other is not None and other.verdict not in ("undecided", self.verdict)
        return other.verdict if other is not None and differs and self.decided_by == "score" else None

    def by(self, measure: Measure) -> tuple[Tested, ...]:
        """The comparisons by a measure; those without a probability by their score."""
        return self.tested if measure == "score" else tuple(t.by_probability or t for t in self.tested)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What its comparisons have data of."""
        probable = any(t.by_probability and t.by_probability.difference for t in self.tested)
        return ("score", "probability") if probable else ("score",)

    @property
    def has_data(self) -> bool:
        """Whether at least one comparison or count has data."""
        return any(t.difference for t in self.tested) or any(f.holds is not None for f in self.facts)

    @property
    def complete(self) -> bool:
        """Whether every comparison and count has data."""
        return all(t.difference for t in self.tested) and all(f.holds is not None for f in self.facts)
