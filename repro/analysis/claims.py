"""The claims ledger: statements of the paper, each tested on the finished runs of a profile.

A comparison pairs two rows by item and seed. The claim is a range for their difference: above 0 for "better",
above the paper's number if it gives one ("by 0.8 points"), and below a second bound for "marginal". p-values
are one-sided, of the interval over items and seeds (`statistics.mean_over_tasks`) with the seeds' variance
moderated by that of the other rows (`repro.analysis.moderated`), exact where no item differs from the others
(`statistics.Alike`), of three null hypotheses:

    holds   the difference is outside the claimed range; rejected: as claimed
    fails   the difference is inside the claimed range; rejected: not as claimed
    equal   the difference is at least the margin, either way; rejected: equal within the margin (two
            one-sided tests, Schuirmann 1987)

A claim is reproduced (or its rows are equal) if the null is rejected in all of its comparisons: the largest
p-value counts, without correction (intersection-union test, Berger 1982). It is contradicted if "fails" is
rejected in one comparison: the smallest p-value counts, times the number of comparisons (Bonferroni).

Comparisons are tested by two measures: the score, and the probability of the gold answers in percent, which
is sharper, with the same claimed points and margin. E2E's metrics and STS-B have no such probability and
are tested by their score under both; an average over GLUE's tasks leaves STS-B out. Where a run has no
numbers, since an older scorer made it, a claim is tested by its score alone; where only some comparisons have
them, the others can reproduce nothing. Holm's correction then covers the three p-values by each measure of
every claim with finished runs. A verdict is that of the score where it decides the claim, and else that by
probability.

A claim about time is tested on the rounds of `repro bench`, a GPU's where there is one among the results: how
far the measured overhead is on the claimed side of its limit, in percent, with one comparison for each
reading of what the paper leaves open. Claims about sizes, ranks, zeros or bytes are counted, without p-values
(`repro.analysis.facts`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repro.analysis.facts import Fact, facts, matches
from repro.analysis.finished import ByColumn, are_accuracies, runs_by_column, same_items
from repro.analysis.ledger import Claim, Comparison, Ledger, Overhead
from repro.analysis.measures import Measure, has_measure, measured
from repro.analysis.moderated import Prior, Priors, moderated
from repro.analysis.rounds import SignedRank, signed_rank
from repro.analysis.statistics import (
    DIFFERENCES,
    Estimate,
    Span,
    Spread,
    holm,
    mean_over_tasks,
    spread,
)
from repro.config import ConfigError
from repro.plans.plan import Plan, PlannedRow
from repro.runs.measurements import Measured, Measurement, usable_speeds
from repro.runs.states import RunState, State, run_states
from repro.runs.store import Store

# Significance level of a verdict, after correction.
LEVEL = 0.05
# Limits of what is proposed: number of seeds, and factor on the number of items.
_MOST_SEEDS, _MOST_ITEMS = 100, 1000
# Of what is proposed for a claim about time.
_MOST_ROUNDS = 500

Verdict = Literal["reproduced", "contradicted", "equal", "undecided", "by formula", "not tested"]


FEWEST_RUNS = 2
"""Of fewer seeds a comparison decides nothing: its interval covers the choice of items alone. One seed of
LoRA missed STS-B on a small encoder (a correlation of 0.00, Dual LoRA 0.78), 24 points of an average."""


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


def score_claims(ledger: Ledger, plans: Mapping[str, Plan], store: Store) -> list[Scored]:
    """Score every claim on the finished runs of a profile.

    Args:
        plans: the ledger's experiments under one profile, by name.
        store: finished runs; its parent folder holds the benchmark results for claims about time.

    Raises:
        ConfigError: a claim's patterns match no rows.
    """
    speeds = usable_speeds(store.folder.parent)
    plans = {name: plans[name] for name in ledger.experiments}
    states = {
        name: {state.spec.hash: state for state in run_states(planned, store)}
        for name, planned in plans.items()
    }
    priors = Priors(plans, states)
    scored = [_scored(claim, ledger, plans, states, priors, store, speeds) for claim in ledger.claims]
    tests = [
        (place, measure, one.by(measure))
        for place, one in enumerate(scored)
        if one.tested and one.has_data
        for measure in one.measures
    ]
    corrected = holm([p for _, _, tested in tests for p in _p_values(tested)])
    for number, (place, measure, _) in enumerate(tests):
        found = PValues(*corrected[3 * number : 3 * number + 3])
        scored[place] = replace(scored[place], p_values={**scored[place].p_values, measure: found})
    # Holm's first step has the strictest level.
    strictest = LEVEL / len(corrected) if corrected else LEVEL
    for place in dict.fromkeys(place for place, _, _ in tests):
        one = scored[place]
        if one.verdict == "undecided":
            needed = wanted_rounds if one.claim.overhead else wanted
            options = [needed(one.by(measure), strictest) for measure in one.p_values]
            scored[place] = replace(one, wanted=_least([option for option in options if option is not None]))
    return scored


def _p_values(tested: Sequence[Tested]) -> tuple[float, float, float]:
    """Of a claim with these comparisons: holds, fails, equal. One of too few seeds decides nothing."""

    def of(t: Tested, p: Callable[[], float]) -> float:
        return p() if t.difference is not None and t.difference.runs >= FEWEST_RUNS else 1.0

    return (
        max(of(t, t.p_holds) for t in tested),
        min(1.0, len(tested) * min(of(t, t.p_fails) for t in tested)),
        max(of(t, t.p_equal) for t in tested),
    )


def _scored(
    claim: Claim,
    ledger: Ledger,
    plans: Mapping[str, Plan],
    states: Mapping[str, Mapping[str, RunState]],
    priors: Priors,
    store: Store,
    speeds: Sequence[Measured],
) -> Scored:
    if claim.overhead:
        return _of_speed(claim, claim.overhead, speeds)
    blocks = dict.fromkeys(row.block for name in claim.experiments for row in plans[name].rows)
    if claim.models and not blocks.keys() & set(claim.models):
        profile = plans[next(claim.experiments)].profile.name
        about, has = ", ".join(claim.models), ", ".join(blocks)
        return Scored(claim, untouched=f"it is about {about}; profile {profile} runs {has} instead")
    if claim.comparisons:
        tested = [
            pair
            for comparison in claim.comparisons
            for pair in _compared(
                claim, comparison, ledger, plans[comparison.experiment], states[comparison.experiment], priors
            )
        ]
        return Scored(claim, tested=tuple(tested))
    if claim.sizes or claim.ranks or claim.unchanged:
        return Scored(claim, facts=facts(claim, plans, store))
    return Scored(claim)


def paired_difference(
    better: ByColumn, worse: ByColumn, columns: Sequence[str], measure: Measure = "score"
) -> Estimate | None:
    """Mean paired difference over columns, on common items and on seeds that both rows have in all columns.

    None without a common seed, or if the test items differ, or if a run lacks the measure's numbers.
    """
    found = paired_outcomes(better, worse, columns, measure)
    return None if found is None else mean_over_tasks(*found)


def paired_outcomes(
    better: ByColumn, worse: ByColumn, columns: Sequence[str], measure: Measure = "score"
) -> tuple[list[NDArray[np.float64]], Span | None] | None:
    """The paired differences of a measure, an array (seeds, items) per column, and their limits if any.

    None as in `paired_difference`.
    """
    shared = [better[column].keys() & worse[column].keys() for column in columns]
    seeds = sorted(set.intersection(*map(set, shared))) if shared else []
    if not seeds:
        return None
    differences, bounded = [], True
    for column in columns:
        one, other = ([row[column][seed] for seed in seeds] for row in (better, worse))
        if not same_items([*one, *other], column):
            return None
        if not has_measure([*one, *other], column, measure):
            return None
        differences.append(measured(one, column, measure) - measured(other, column, measure))
        bounded = bounded and (measure == "probability" or are_accuracies([*one, *other], column))
    return differences, DIFFERENCES if bounded else None


def _compared(
    claim: Claim,
    comparison: Comparison,
    ledger: Ledger,
    planned: Plan,
    states: Mapping[str, RunState],
    priors: Priors,
) -> Iterator[Tested]:
    pairs = list(_pairs(claim, comparison, planned))
    if not pairs:
        raise ConfigError(
            f"results/paper/claims.yaml, {claim.id}: no rows of {comparison.experiment} under profile "
            f"{planned.profile.name} match {', '.join(comparison.better)} "
            f"and {', '.join(comparison.worse)}"
        )
    results = {spec_hash: state.result for spec_hash, state in states.items()}
    for better, worse in pairs:
        one, other = (runs_by_column(row, results) for row in (better, worse))
        both = [column for column in better.columns if column in worse.columns]
        wanted = [column for column in comparison.columns if column in both]
        collapsed = sum(_collapsed(states[spec.hash]) for spec in (*better.specs, *worse.specs))
        family = type(better.specs[0].benchmark)
        for column, columns in [(c, [c]) for c in wanted] if comparison.columns else [(None, both)]:
            tested = Tested(
                block=better.block,
                better=better.label,
                worse=worse.label,
                column=column,
                at_least=comparison.at_least,
                at_most=comparison.at_most,
                margin=ledger.margin_of(comparison, column),
                difference=None,
                collapsed=collapsed,
            )
            # The probability that E2E's columns share is of none of its metrics.
            sharp = [] if family.shares_items else [c for c in columns if c in family.gold_columns()]
            yield replace(
                _with_data(
                    tested,
                    paired_outcomes(one, other, columns),
                    priors.of(planned, (better, worse), columns, "score"),
                ),
                by_probability=_with_data(
                    tested,
                    paired_outcomes(one, other, sharp, "probability"),
                    priors.of(planned, (better, worse), sharp, "probability"),
                )
                if sharp
                else None,
            )


def _with_data(
    tested: Tested, outcomes: tuple[list[NDArray[np.float64]], Span | None] | None, prior: Prior | None
) -> Tested:
    if outcomes is None:
        return tested
    found, own = mean_over_tasks(*outcomes), spread(*outcomes)
    if own is None:
        return replace(tested, difference=found)
    shared = moderated(own, prior)
    return replace(tested, difference=shared.estimate(found.mean, found.runs), spread=shared)


def _of_speed(claim: Claim, overhead: Overhead, speeds: Sequence[Measured]) -> Scored:
    """A claim about time or memory on the first benchmark that measured every reading of it.

    The first is a GPU's: the paper trained on one. Of several processors it is the one with the most rounds.
    A reading without a measurement would make the claim easier, so that a benchmark with some of them comes
    after one with all.
    """

    def rank(one: tuple[Measured, list[Measurement]]) -> tuple[bool, bool, int]:
        speed, figures = one
        whole = {f.name for f in figures} == set(overhead.ratios)
        return whole, speed.device == "gpu", min(len(f.ratio.rounds) for f in figures)

    measured = [(speed, figures) for speed in speeds if (figures := _figures(overhead, speed))]
    if not measured:
        return Scored(claim)
    speed, figures = max(measured, key=rank)
    where = speed.hardware
    if speed.device != "gpu":
        on_gpu = any(one.device == "gpu" for one in speeds)
        where += "; " + ("the GPU's bench lacks it" if on_gpu else "no GPU's bench is among the results")
    return Scored(claim, tuple(_timed(overhead, figures)), tuple(_weighed(overhead, figures)), where=where)


def _timed(overhead: Overhead, figures: Iterable[Measurement]) -> Iterator[Tested]:
    """Comparisons of measurements with several rounds."""
    for figure in figures:
        if len(figure.ratio.rounds) > 1:
            yield Tested(
                block=figure.at,
                better=figure.name,
                worse=f"{overhead.percent:g} % more" if overhead.percent else "no more",
                column=None,
                at_least=0.0,
                at_most=None,
                margin=overhead.equal_within,
                difference=signed_rank(figure.ratio.rounds, overhead.percent, overhead.exceeded),
            )


def _weighed(overhead: Overhead, figures: Iterable[Measurement]) -> Iterator[Fact]:
    """Facts from measurements with a single round, such as bytes, which do not vary."""
    for figure in figures:
        if len(figure.ratio.rounds) == 1:
            more = 100 * (figure.ratio.median - 1)
            found = f"{more:+.2f} %, claimed limit {overhead.percent:g} %; {figure.note}"
            yield Fact(figure.at, figure.name, found, overhead.as_claimed(more) > 0)


def _figures(overhead: Overhead, speed: Measured) -> list[Measurement]:
    return [figure for name in overhead.ratios for figure in speed.figures if figure.name == name]


def _collapsed(state: RunState) -> bool:
    if state.result is None:
        return state.state is State.FAILED
    return any(score.constant for score in state.result.scores.values())


def _pairs(claim: Claim, comparison: Comparison, planned: Plan) -> Iterator[tuple[PlannedRow, PlannedRow]]:
    rows = [
        row
        for row in planned.rows
        if (comparison.extra or not row.extra) and (not claim.models or row.block in claim.models)
    ]
    for better in (row for row in rows if matches(row.id, comparison.better)):
        for worse in (row for row in rows if matches(row.id, comparison.worse)):
            same_block = better.block == worse.block and better.id != worse.id
            sizes = (better.trainable_parameters, worse.trainable_parameters)
            if same_block and fits(comparison.size, *sizes):
                yield better, worse


def fits(size: str, better: float, worse: float) -> bool:
    """Whether `Comparison.size` admits two rows with these numbers of trained parameters."""
    if size == "equal":
        return max(better, worse) <= 1.1 * min(better, worse)
    return size == "any" or better <= 1.1 * worse


def wanted(tested: Sequence[Tested], level: float) -> Wanted | None:
    """The fewest seeds, and the fewest items per task, that would decide a claim at this level.

    Comparisons without data are left out, so that more may be needed.
    None if none has data, or one with data has no spread to project from.
    """
    measured = [t for t in tested if t.difference]
    spreads = [t.spread for t in measured if t.spread]
    if not spreads or len(spreads) < len(measured):
        return None

    def decided(seeds: int | None, more_items: float) -> bool:
        if seeds is None and any(s.runs < FEWEST_RUNS for s in spreads):
            return False
        return _decided(
            [
                (t, t.spread.estimate(t.difference.mean, seeds or t.spread.runs, more_items))
                for t in measured
                if t.spread and t.difference
            ],
            level,
            len(tested),
        )

    choices = range(min(s.runs for s in spreads) + 1, _MOST_SEEDS + 1)
    per_task = max(s.per_task for s in spreads)

    # More of either never undecides a claim, so that both are found by bisection.
    def fewest_seeds(more_items: float) -> int | None:
        place = bisect_left(choices, True, key=lambda seeds: decided(seeds, more_items))
        return choices[place] if place < len(choices) else None

    # Steps of 10 % for items alone, of a factor of 2 together with seeds: fine enough for planning.
    factors = _steps(1.1)
    enough = bisect_left(factors, True, key=lambda factor: decided(None, factor))
    factor = factors[enough] if enough < len(factors) else None
    together = [(seeds, f) for f in _steps(2.0) if (seeds := fewest_seeds(f)) is not None]
    both = min(together, key=lambda pair: pair[0] * pair[1], default=None)
    return Wanted(
        seeds=fewest_seeds(1.0),
        items=None if factor is None else ceil(factor * per_task),
        both=None if both is None else (both[0], ceil(both[1] * per_task)),
    )


def wanted_rounds(tested: Sequence[Tested], level: float) -> Wanted | None:
    """The fewest rounds, as a multiple of the present ones, that would decide a claim about time."""
    measured = [(t, t.difference) for t in tested if isinstance(t.difference, SignedRank)]
    rounds = max((found.runs for _, found in measured), default=_MOST_ROUNDS)
    for times in range(2, _MOST_ROUNDS // rounds + 1):
        if _decided([(t, found.repeated(times)) for t, found in measured], level, len(tested)):
            return Wanted(seeds=None, items=times * rounds, both=None)
    return Wanted(seeds=None, items=None, both=None)


def _decided(projected: Sequence[tuple[Tested, Estimate]], level: float, comparisons: int) -> bool:
    """Whether these estimates would decide a claim with so many comparisons."""
    return (
        max(t.p_holds(e) for t, e in projected) <= level
        or comparisons * min(t.p_fails(e) for t, e in projected) <= level
        or max(t.p_equal(e) for t, e in projected) <= level
    )


def _least(options: Sequence[Wanted]) -> Wanted | None:
    """The least of what would decide a claim by one measure or the other."""
    if not options:
        return None
    return Wanted(
        seeds=min((o.seeds for o in options if o.seeds), default=None),
        items=min((o.items for o in options if o.items), default=None),
        both=min((o.both for o in options if o.both), key=lambda pair: pair[0] * pair[1], default=None),
    )


def _steps(factor: float) -> list[float]:
    """Powers of `factor` up to `_MOST_ITEMS`."""
    return [factor**step for step in range(1, int(log(_MOST_ITEMS) / log(factor)) + 1)]
