"""The claims ledger: statements of the paper, each tested against the runs of a profile.

A comparison pairs two rows over the same items and the same seeds. It is tested twice, one-sided: that the
better row is not better at all, and that it is better by the margin or more. p-values are Student's on the
paired differences, which cover items and seeds (`statistics.mean_over_tasks`).

A claim holds if all of its comparisons do. So it is reproduced where the first test is rejected in every one,
for which the largest p-value speaks and needs no correction (an intersection-union test, Berger 1982). It is
contradicted where the second is rejected in any one, for which the smallest speaks, times their number
(Bonferroni). That also happens where both rows are equal up to the margin: "beats" is then wrong. Holm's
correction is over both p-values of every claim in the ledger.

A claim about time is tested on the rounds of `repro bench`: its comparisons are the readings of what the
paper left open, their difference is the time that was claimed less the time that was measured, in percent of
the other method's, and the two tests are of that difference being at or below zero, and at or above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from pydantic import Field

from repro.analysis.statistics import Estimate, holm, mean_over_tasks, outcomes_array
from repro.config import ConfigError, Frozen, load_yaml
from repro.paths import EXPERIMENTS
from repro.study.experiment import Plan, PlannedRow
from repro.study.result import Result
from repro.study.speed import Measured, read_speed
from repro.study.states import RunState, State, run_states
from repro.study.store import Store

# A verdict's largest p-value after the correction.
LEVEL = 0.05
# Seeds beyond these are not proposed: nobody runs them.
_MOST_SEEDS = 100

Verdict = Literal["reproduced", "contradicted", "undecided"]


class Comparison(Frozen):
    """Rows that are said to be better than others of the same block, by patterns of their ids.

    Attributes:
        equal_size: compare rows only whose trained parameters differ by less than a tenth.
        columns: of the tables, those that are compared; none named: all.
    """

    better: tuple[str, ...]
    worse: tuple[str, ...]
    equal_size: bool = False
    columns: tuple[str, ...] = ()


class Overhead(Frozen):
    """Time that a method takes beyond another's, at most.

    Attributes:
        percent: of the other's time.
        ratios: names of figures of `repro bench`, one for each reading of the claim.
    """

    percent: float
    ratios: tuple[str, ...] = Field(min_length=1)


class Claim(Frozen):
    """A statement of the paper. It holds if every one of its comparisons does.

    Attributes:
        where: its place in the paper.
        overhead: what it says about time, where that is what it is about.
        margin: difference in points that is too small for its words, where the ledger's is not meant.
        unmeasured: why no run of this project can decide it, where that is so.
    """

    id: str
    text: str
    where: str
    experiment: str | None = None
    comparisons: tuple[Comparison, ...] = ()
    margin: float | None = Field(default=None, gt=0)
    overhead: Overhead | None = None
    unmeasured: str = ""


class Ledger(Frozen):
    """The file `experiments/claims.yaml`.

    Attributes:
        margin: difference in points of the average that counts as none.
    """

    margin: float = Field(gt=0)
    claims: tuple[Claim, ...]

    @property
    def experiments(self) -> list[str]:
        """Names of those that decide a claim."""
        return list(dict.fromkeys(claim.experiment for claim in self.claims if claim.experiment))

    def margin_of(self, claim: Claim) -> float:
        return self.margin if claim.margin is None else claim.margin


@dataclass(frozen=True)
class Tested:
    """One comparison of two rows, or of a time with the claimed one.

    Attributes:
        difference: better less worse, in points of the mean over the columns; None without a common seed. Of
            times: claimed less measured, in percent of the other method's; its runs are rounds.
        p_no_better, p_by_margin: of the two tests, not corrected; 1 without a difference.
        collapsed: runs of the two rows that gave every item of some task one answer, or that failed.
    """

    block: str
    better: str
    worse: str
    difference: Estimate | None
    p_no_better: float
    p_by_margin: float
    collapsed: int


@dataclass(frozen=True)
class Scored:
    """A claim, and what became of it.

    Attributes:
        tested: its comparisons; none where no run can decide it.
        p_holds, p_fails: corrected; small where it is reproduced, and where it is contradicted.
    """

    claim: Claim
    tested: tuple[Tested, ...]
    p_holds: float
    p_fails: float

    @property
    def verdict(self) -> Verdict:
        if self.p_holds <= LEVEL:
            return "reproduced"
        return "contradicted" if self.p_fails <= LEVEL else "undecided"


def load_ledger() -> Ledger:
    """The paper's claims."""
    return load_yaml(EXPERIMENTS / "claims.yaml", Ledger)


def score_claims(ledger: Ledger, plans: Mapping[str, Plan], store: Store) -> list[Scored]:
    """Every claim, by the comparisons that its experiment allows, on the finished runs of its plan.

    Args:
        plans: by name, the experiments of the ledger under one profile.
        store: beside its runs lies the benchmark that decides claims about time.

    Raises:
        ConfigError: a claim's patterns match no rows.
    """
    speed = read_speed(store.folder.parent)

    def compared(claim: Claim) -> tuple[Tested, ...]:
        if claim.overhead:
            return tuple(_timed(claim.overhead, speed))
        if claim.experiment:
            return tuple(_compared(claim, plans[claim.experiment], store, ledger.margin_of(claim)))
        return ()

    tested = [compared(claim) for claim in ledger.claims]
    decidable = [own for own in tested if own]
    holds = [max(t.p_no_better for t in own) for own in decidable]
    fails = [min(1.0, len(own) * min(t.p_by_margin for t in own)) for own in decidable]
    corrected = iter(holm([*holds, *fails]))
    p_holds = [next(corrected) if own else 1.0 for own in tested]
    p_fails = [next(corrected) if own else 1.0 for own in tested]
    return [Scored(*parts) for parts in zip(ledger.claims, tested, p_holds, p_fails, strict=True)]


ByColumn = Mapping[str, Mapping[int, Result]]
"""Finished runs of a row: by the column that they fill, and by seed."""


def paired_difference(better: ByColumn, worse: ByColumn, columns: Sequence[str]) -> Estimate | None:
    """Mean over the columns of the difference, over the same items and the seeds that both rows have in all.

    None where they have no seed in common, or were not tested on the same items.
    """
    shared = [better[column].keys() & worse[column].keys() for column in columns]
    seeds = sorted(set.intersection(*map(set, shared)))
    if not seeds:
        return None
    differences = []
    for column in columns:
        one, other = ([row[column][seed] for seed in seeds] for row in (better, worse))
        if len({result.data_fingerprints["test"] for result in [*one, *other]}) != 1:
            return None
        outcomes = [outcomes_array([r.scores[column].outcomes for r in runs]) for runs in (one, other)]
        differences.append(outcomes[0] - outcomes[1])
    return mean_over_tasks(differences)


def _compared(claim: Claim, planned: Plan, store: Store, margin: float) -> Iterator[Tested]:
    states = {state.spec.hash: state for state in run_states(planned, store)}
    for comparison in claim.comparisons:
        pairs = list(_pairs(comparison, planned))
        if not pairs:
            raise ConfigError(
                f"experiments/claims.yaml, {claim.id}: no rows of {claim.experiment} under profile "
                f"{planned.profile.name} match {', '.join(comparison.better)} "
                f"and {', '.join(comparison.worse)}"
            )
        for better, worse in pairs:
            columns = [c for c in better.columns if not comparison.columns or c in comparison.columns]
            difference = paired_difference(
                runs_by_column(better, states), runs_by_column(worse, states), columns
            )
            yield Tested(
                block=better.block,
                better=better.label,
                worse=worse.label,
                difference=difference,
                p_no_better=difference.p_below(0) if difference else 1.0,
                p_by_margin=difference.p_above(margin) if difference else 1.0,
                collapsed=sum(_collapsed(states[spec.hash]) for spec in (*better.specs, *worse.specs)),
            )


def _timed(overhead: Overhead, speed: Measured | None) -> Iterator[Tested]:
    figures = {figure.name: figure for figure in speed.figures} if speed else {}
    for name in overhead.ratios:
        figure, difference = figures.get(name), None
        if figure is not None and len(figure.ratio.rounds) > 1:
            rounds = overhead.percent - 100 * (np.array([figure.ratio.rounds]) - 1)
            # Rounds vary as items do.
            difference = replace(mean_over_tasks([rounds]), runs=rounds.shape[1])
        yield Tested(
            block=figure.at if figure else "",
            better=name,
            worse=f"{overhead.percent:g} % more time",
            difference=difference,
            p_no_better=difference.p_below(0) if difference else 1.0,
            p_by_margin=difference.p_above(0) if difference else 1.0,
            collapsed=0,
        )


def runs_by_column(row: PlannedRow, states: Mapping[str, RunState]) -> ByColumn:
    """A row's finished runs whose score is not missing; `states` by hash."""
    found: dict[str, dict[int, Result]] = {}
    for column in row.columns:
        runs = {spec.seed: states[spec.hash].result for spec in row.specs_for(column)}
        found[column] = {
            seed: result
            for seed, result in runs.items()
            if result is not None and result.scores[column].value is not None
        }
    return found


def _collapsed(state: RunState) -> bool:
    if state.result is None:
        return state.state is State.FAILED
    return any(score.constant for score in state.result.scores.values())


def _pairs(comparison: Comparison, planned: Plan) -> Iterator[tuple[PlannedRow, PlannedRow]]:
    for better in planned.rows:
        for worse in planned.rows:
            if better.block != worse.block or better.id == worse.id:
                continue
            sizes = (better.trainable_parameters, worse.trainable_parameters)
            if comparison.equal_size and max(sizes) > 1.1 * min(sizes):
                continue
            if _matches(better, comparison.better) and _matches(worse, comparison.worse):
                yield better, worse


def _matches(row: PlannedRow, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(row.id, pattern) for pattern in patterns)


def seeds_to_settle(difference: Estimate, margin: float) -> int | None:
    """Seeds at which one of the two tests would come out, if difference and spread stayed as they are.

    As an approximation the whole variance is taken to fall with the number of seeds, which items that every
    seed gets wrong do not: it is a lower bound. Without the correction for being several.
    """
    if difference.error is None:
        return None
    distance = max(difference.mean, margin - difference.mean)
    for seeds in range(difference.runs + 1, _MOST_SEEDS + 1):
        error = difference.error * np.sqrt(difference.runs / seeds)
        if replace(difference, mean=distance, error=float(error)).p_below(0) <= LEVEL:
            return seeds
    return None
