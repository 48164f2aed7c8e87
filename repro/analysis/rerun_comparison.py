"""A run held against its repetition: what differs, and whether it may."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from math import inf

from repro.analysis.statistics import mean_over_tasks, outcomes_array
from repro.benchmarks.base import TaskScore
from repro.runs.result import Result

# Between machines and versions sums are taken in another order, which changes the last digits of a float32.
# Before the first update nothing amplifies that: 3e-7 between an Intel and an AMD processor, measured on LoRA
# in Table 1. bfloat16 rounds 6e4 times as coarsely, and was not measured. Later steps can amplify it, so
# their losses are told and not judged.
FIRST_LOSS = {"fp32": 1e-4, "bf16": 1e-2}
# Of a score's 95 % interval over test items: a repetition has to agree better than another draw of items
# would. Scores are not held tighter, since an answer that was nearly a tie turns with the last digit.
SHARE_OF_INTERVAL = 0.5


@dataclass(frozen=True)
class ColumnChange:
    """A column's values and how many of its items came out otherwise; None where a run has no such value.

    Attributes:
        allowed: difference that is tolerated elsewhere, in the column's unit.
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
class Repetition:
    """A result beside its repetition's.

    Attributes:
        environment: what the two environments differ in, by name: before and after.
        contract: what has to be equal anywhere and is not (data, parameters, steps), likewise.
        first_loss: relative difference of the first step's losses; None without training.
        allowed_loss: what is tolerated of it elsewhere.
        largest_loss: of any step's.
        columns: every column of the scores.
    """

    environment: dict[str, tuple[str, str]]
    contract: dict[str, tuple[str, str]]
    first_loss: float | None
    allowed_loss: float
    largest_loss: float | None
    columns: tuple[ColumnChange, ...]

    @property
    def identical(self) -> bool:
        """Equal losses, scores and outcomes, bit for bit."""
        return not self.contract and not self.largest_loss and all(c.identical for c in self.columns)

    @property
    def within_tolerance(self) -> bool:
        """Identical on the same hardware and versions; elsewhere close enough to be the same run."""
        if not self.environment:
            return self.identical
        return (
            not self.contract
            and (self.first_loss or 0) <= self.allowed_loss
            and all(c.tolerated for c in self.columns)
        )


def compare(before: Result, after: Result) -> Repetition:
    """Two results of one spec."""
    losses = list(zip_longest(before.training.losses, after.training.losses))
    relative = [inf if None in pair else abs(pair[1] - pair[0]) / abs(pair[0]) for pair in losses]
    columns = dict.fromkeys([*before.scores, *after.scores])
    return Repetition(
        environment=_differing(_environment(before), _environment(after)),
        contract=_differing(_contract(before), _contract(after)),
        first_loss=relative[0] if relative else None,
        allowed_loss=FIRST_LOSS[before.spec["training"]["precision"]],
        largest_loss=max(relative, default=None),
        columns=tuple(_column(name, before.scores.get(name), after.scores.get(name)) for name in columns),
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


def _environment(result: Result) -> dict[str, str]:
    environment = result.environment
    told = (
        environment.model_dump(exclude={"packages"})
        | environment.packages
        | {"kernel": result.training.kernel}
    )
    return {name: str(value) for name, value in told.items()}


def _contract(result: Result) -> dict[str, str]:
    return {
        "steps": str(result.training.steps),
        "training tokens": str(result.training.tokens),
        "trained parameters": str(result.trainable_parameters),
        "adapted layers": str(result.adapted_layers),
        "scorer version": str(result.evaluation.scorer_version),
        **{f"data, {part}": digest for part, digest in result.data_fingerprints.items()},
    }


def _differing(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name, "-"), after.get(name, "-")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
