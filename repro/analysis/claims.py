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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repro.analysis.facts import facts, matches
from repro.analysis.finished import runs_by_column
from repro.analysis.ledger import Claim, Comparison, Ledger
from repro.analysis.moderated import Prior, Priors, moderated
from repro.analysis.paired import paired_outcomes
from repro.analysis.speed_claims import of_speed
from repro.analysis.statistics import Span, holm, mean_over_tasks, spread
from repro.analysis.verdicts import FEWEST_RUNS, LEVEL, PValues, Scored, Tested
from repro.analysis.wanted import least, wanted, wanted_rounds
from repro.config import ConfigError
from repro.plans.plan import Plan, PlannedRow
from repro.runs.measurements import Measured, usable_speeds
from repro.runs.states import RunState, State, run_states
from repro.runs.store import Store


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
            scored[place] = replace(one, wanted=least([option for option in options if option is not None]))
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
        return of_speed(claim, claim.overhead, speeds)
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
        named = [column for column in comparison.columns if column in both]
        collapsed = sum(_collapsed(states[spec.hash]) for spec in (*better.specs, *worse.specs))
        family = type(better.specs[0].benchmark)
        for column, columns in [(c, [c]) for c in named] if comparison.columns else [(None, both)]:
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
            if same_block and comparison.admits(*sizes):
                yield better, worse
