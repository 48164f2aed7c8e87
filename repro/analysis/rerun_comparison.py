"""Compares a run with its rerun: what differs, and whether the difference is tolerated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from math import inf

import numpy as np

from repro.analysis.statistics import ACCURACIES, mean_over_tasks, outcomes_array
from repro.benchmarks.base import TaskScore
from repro.runs.result import Result

# Tolerated relative difference of the first step's loss on other hardware or versions, where sums are taken
# in another order. Measured: 3e-7 in fp32 between an Intel and an AMD processor, LoRA in Table 1. bf16 rounds
# 6e4 times as coarsely and was not measured. Later losses can amplify it: they are reported, not judged.
FIRST_LOSS = {"fp32": 1e-4, "bf16": 1e-2}
# Tolerated difference of a score, as a share of the half-width of its 95 % interval over items: a rerun must
# agree better than another sample of items would. Not tighter, since near ties flip with rounding.
SHARE_OF_INTERVAL = 0.5


@dataclass(frozen=True)
class ColumnChange:
    """A column in the run and in its rerun, by its score or by the probability of gold answers.

    Attributes:
        column: its name, with ", probability" where that is compared, in percent.
        before, after: values of the run and of the rerun; None where there is none.
        changed, items: items whose outcome or stored log-probability differs, and all items.
        allowed: difference tolerated on other hardware or versions, in the column's unit.
    """

    column: str
    before: float | None
    after: float | None
    changed: int
    items: int
    allowed: float

    @property
    def identical(self) -> bool:
        return self.before == self.after and not self.changed

    @property
    def tolerated(self) -> bool:
        if self.before is None or self.after is None:
            return self.identical
        return abs(self.after - self.before) <= self.allowed


@dataclass(frozen=True)
class RerunComparison:
    """A result compared with the result of its rerun.

    Attributes:
        environment: differences of the environments, by name: (before, after).
        contract: differences in what must be equal everywhere (data, parameters, steps), likewise.
        first_loss: relative difference of the first step's losses; None without training.
        allowed_loss: tolerance of `first_loss` on other hardware or versions.
        largest_loss: largest relative difference of any step's losses; None without training.
        columns: every column of the scores; and by its probability each that has it in both results.
    """

    environment: dict[str, tuple[str, str]]
    contract: dict[str, tuple[str, str]]
    first_loss: float | None
    allowed_loss: float
    largest_loss: float | None
    columns: tuple[ColumnChange, ...]

    @property
    def identical(self) -> bool:
        """Whether losses, scores and outcomes are equal bit for bit."""
        return not self.contract and not self.largest_loss and all(c.identical for c in self.columns)

    @property
    def within_tolerance(self) -> bool:
        """Whether the rerun agrees: identical on the same hardware and versions, else within tolerance."""
        if not self.environment:
            return self.identical
        return (
            not self.contract
            and (self.first_loss or 0) <= self.allowed_loss
            and all(c.tolerated for c in self.columns)
        )


def compare(before: Result, after: Result) -> RerunComparison:
    """Compare two results of one spec."""
    losses = list(zip_longest(before.training.losses, after.training.losses))
    relative = [inf if None in pair else abs(pair[1] - pair[0]) / abs(pair[0]) for pair in losses]
    columns = dict.fromkeys([*before.scores, *after.scores])
    return RerunComparison(
        environment=_differing(_environment(before), _environment(after)),
        contract=_differing(_contract(before), _contract(after)),
        first_loss=relative[0] if relative else None,
        allowed_loss=FIRST_LOSS[before.spec["training"]["precision"]],
        largest_loss=max(relative, default=None),
        columns=tuple(
            change
            for name in columns
            for change in (
                _column(name, before.scores.get(name), after.scores.get(name)),
                _probability(name, before.scores.get(name), after.scores.get(name)),
            )
            if change is not None
        ),
    )


def _column(name: str, before: TaskScore | None, after: TaskScore | None) -> ColumnChange:
    one, other = (tuple(score.outcomes) if score else () for score in (before, after))
    width = mean_over_tasks([outcomes_array([before.outcomes])]).half_width if before and one else None
    return ColumnChange(
        name,
        before.value if before else None,
        after.value if after else None,
        sum(a != b for a, b in zip_longest(one, other)),
        max(len(one), len(other)),
        SHARE_OF_INTERVAL * (width or 0),
    )


def _probability(name: str, before: TaskScore | None, after: TaskScore | None) -> ColumnChange | None:
    """None unless both have log-probabilities, which results of older scorers lack."""
    if before is None or after is None or not before.log_probabilities or not after.log_probabilities:
        return None
    one, other = before.log_probabilities, after.log_probabilities
    estimate, again = (mean_over_tasks([100 * np.exp([values])], ACCURACIES) for values in (one, other))
    return ColumnChange(
        f"{name}, probability",
        estimate.mean,
        again.mean,
        sum(a != b for a, b in zip_longest(one, other)),
        max(len(one), len(other)),
        SHARE_OF_INTERVAL * (estimate.half_width or 0),
    )


def _environment(result: Result) -> dict[str, str]:
    environment = result.environment
    told = (
        environment.model_dump(exclude={"packages"})
        | environment.packages
        | {"kernel": result.training.kernel, "scorer version": result.evaluation.scorer_version}
    )
    return {name: str(value) for name, value in told.items()}


def _contract(result: Result) -> dict[str, str]:
    return {
        "steps": str(result.training.steps),
        "training tokens": str(result.training.tokens),
        "trained parameters": str(result.trainable_parameters),
        "adapted layers": str(result.adapted_layers),
        **{f"data, {part}": digest for part, digest in result.data_fingerprints.items()},
    }


def _differing(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name, "-"), after.get(name, "-")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
