"""A run held against its repetition: what differs, and whether it may."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from math import inf

from repro.benchmarks.base import TaskScore
from repro.study.result import Environment, Result

# Between machines and versions sums are taken in another order, which changes the last digits of a float32.
# Before the first update nothing amplifies that.
FIRST_LOSS = 1e-4
# Later it is amplified, above all where a sign turns or an answer was nearly a tie.
ITEMS = 0.05
POINTS = 1.5


@dataclass(frozen=True)
class ColumnChange:
    """A column's values and how many of its items came out otherwise; None where one run has no such column."""

    column: str
    before: float | None
    after: float | None
    changed: int
    items: int


@dataclass(frozen=True)
class Repetition:
    """A result beside its repetition's.

    Attributes:
        environment: what the two environments differ in, by name: before and after.
        contract: what has to be equal anywhere and is not (data, parameters, steps), likewise.
        first_loss: relative difference of the first step's losses; None without training.
        largest_loss: of any step's.
        columns: every column of the scores.
    """

    environment: dict[str, tuple[str, str]]
    contract: dict[str, tuple[str, str]]
    first_loss: float | None
    largest_loss: float | None
    columns: tuple[ColumnChange, ...]

    @property
    def identical(self) -> bool:
        """Equal losses, scores and outcomes, bit for bit."""
        return (
            not self.contract
            and not self.largest_loss
            and all(c.before == c.after and not c.changed for c in self.columns)
        )

    @property
    def changed(self) -> float:
        """Share of outcomes that changed."""
        return sum(c.changed for c in self.columns) / max(1, sum(c.items for c in self.columns))

    @property
    def points(self) -> float:
        """Difference of the mean over the columns; infinite where one of the two lacks a column."""
        if any((c.before is None) != (c.after is None) for c in self.columns):
            return inf
        known = [c.after - c.before for c in self.columns if c.before is not None and c.after is not None]
        return sum(known) / max(1, len(known))

    @property
    def within_tolerance(self) -> bool:
        """On the same hardware and versions identical is demanded, elsewhere that the differences are small."""
        if self.identical:
            return True
        return (
            bool(self.environment)
            and not self.contract
            and (self.first_loss or 0) <= FIRST_LOSS
            and abs(self.points) <= POINTS
        )


def compare(before: Result, after: Result) -> Repetition:
    """Two results of one spec."""
    losses = list(zip_longest(before.training.losses, after.training.losses))
    relative = [inf if None in pair else abs(pair[1] - pair[0]) / abs(pair[0]) for pair in losses]
    columns = dict.fromkeys([*before.scores, *after.scores])
    return Repetition(
        environment=_differing(_environment(before.environment), _environment(after.environment)),
        contract=_differing(_contract(before), _contract(after)),
        first_loss=relative[0] if relative else None,
        largest_loss=max(relative, default=None),
        columns=tuple(
            _column(name, before.scores.get(name), after.scores.get(name)) for name in columns
        ),
    )


def _column(name: str, before: TaskScore | None, after: TaskScore | None) -> ColumnChange:
    one, other = (tuple(score.outcomes) if score else () for score in (before, after))
    return ColumnChange(
        name,
        before.value if before else None,
        after.value if after else None,
        sum(a != b for a, b in zip_longest(one, other)),
        max(len(one), len(other)),
    )


def _environment(environment: Environment) -> dict[str, str]:
    told = environment.model_dump(exclude={"packages"}) | environment.packages
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
