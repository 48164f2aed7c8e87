"""The schema of the claims ledger: the paper's statements as data, and how each is tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from repro.config import Frozen, load_yaml
from repro.paths import PAPER


class Comparison(Frozen):
    """Rows that are claimed to be better than other rows of the same block.

    Attributes:
        better, worse: patterns of row ids.
        size: which rows are compared: `equal` if trained parameters differ by at most 10 %, `same_or_more` if
            the worse row trains at least as many, within 10 %.
        columns: columns, each compared by itself; none compares the average.
        extra: whether this project's additional rows are included.
        at_least: claimed difference in points; 0 means just "better".
        at_most: largest difference that the claim covers, for instance for a "marginal" drop.
    """

    experiment: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    size: Literal["any", "equal", "same_or_more"] = "any"
    columns: tuple[str, ...] = ()
    extra: bool = False
    at_least: float = Field(default=0.0, ge=0)
    at_most: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Comparison:
        if self.at_most is not None and self.at_most <= self.at_least:
            raise ValueError(f"at_most is {self.at_most:g}, not above at_least, {self.at_least:g}")
        return self

    def admits(self, better: float, worse: float) -> bool:
        """Whether `size` admits two rows with these numbers of trained parameters."""
        if self.size == "equal":
            return max(better, worse) <= 1.1 * min(better, worse)
        return self.size == "any" or better <= 1.1 * worse


class Sizes(Frozen):
    """A claim about trained parameters, counted on the paper's own models without any run.

    Attributes:
        rows: patterns of the rows that it is about.
        than: patterns of the rows of the same block to compare with.
        relation: `fewer`, `same_or_fewer` or `equal`, within 0.5 %.
        percent_below: percentage of all parameters that every row stays below.
    """

    experiment: str
    rows: tuple[str, ...]
    than: tuple[str, ...] = ()
    relation: Literal["fewer", "same_or_fewer", "equal"] | None = None
    percent_below: float | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Sizes:
        if (self.relation is None) == (self.percent_below is None) or bool(self.than) != bool(self.relation):
            raise ValueError("sizes: either relation and than, or percent_below")
        return self


class Ranks(Frozen):
    """A claim about a rank, as the mean over layers in a row's finished runs.

    Attributes:
        row: id of the row.
        part: `update` (ΔW), `magnitude` or `direction`.
        at_least: minimum share of the largest rank that the shapes allow.
        within_factors: the rank of no layer exceeds the rank of the method's factors.
        below: part of the same row whose rank is higher.
        times, of: the rank is at least `times` the rank of the update of row `of`.
    """

    experiment: str
    row: str
    part: Literal["update", "magnitude", "direction"] = "update"
    at_least: float | None = Field(default=None, gt=0, le=1)
    within_factors: bool = False
    below: Literal["update", "magnitude", "direction"] | None = None
    times: float | None = Field(default=None, gt=0)
    of: str | None = None


class Unchanged(Frozen):
    """A claim about entries of ΔW that are exactly 0 at the end of training.

    Attributes:
        some: patterns of rows that have them, at least 1 % of all entries.
        none: patterns of rows that have none, less than 0.01 %.
    """

    experiment: str
    some: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


class Overhead(Frozen):
    """A claimed limit on the time or memory that a method needs beyond another.

    Attributes:
        percent: the limit, in percent of the other method.
        ratios: names of measurements of `repro bench`, one for each reading of the claim.
        exceeded: the claim is that the method needs more than the limit, not less.
        margin: percent that count as equal; None: half of the limit.
    """

    percent: float = Field(ge=0)
    ratios: tuple[str, ...] = Field(min_length=1)
    exceeded: bool = False
    margin: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_a_margin(self) -> Overhead:
        if self.percent == 0 and self.margin is None:
            raise ValueError("overhead: a limit of 0 percent needs a margin")
        return self

    @property
    def equal_within(self) -> float:
        """Percent that count as equal."""
        return self.percent / 2 if self.margin is None else self.margin

    def as_claimed(self, percent: float) -> float:
        """How far a measured percentage is on the claimed side of the limit; below 0 it is on the other."""
        return percent - self.percent if self.exceeded else self.percent - percent

    def measured(self, as_claimed: float) -> float:
        """The percentage that is so far on the claimed side."""
        return self.percent + (as_claimed if self.exceeded else -as_claimed)


class Claim(Frozen):
    """A statement of the paper. It holds if all of its comparisons, or all of its counts, hold.

    Attributes:
        where: its place in the paper.
        text: the statement in this project's words.
        models: the base models that it is about; none if it is about all of them.
        unmeasured: why no run can decide it.
        by_formula: why it follows from the formulas, without any run.
    """

    id: str
    where: str
    text: str
    models: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    sizes: tuple[Sizes, ...] = ()
    ranks: tuple[Ranks, ...] = ()
    unchanged: tuple[Unchanged, ...] = ()
    overhead: Overhead | None = None
    unmeasured: str = ""
    by_formula: str = ""

    @model_validator(mode="after")
    def _is_tested_one_way(self) -> Claim:
        facts = (*self.sizes, *self.ranks, *self.unchanged)
        ways = [self.comparisons, facts, self.overhead, self.unmeasured, self.by_formula]
        if sum(map(bool, ways)) != 1:
            raise ValueError(
                f"{self.id}: a claim needs exactly one of comparisons, counts (sizes, ranks, unchanged), "
                "overhead, unmeasured, by_formula"
            )
        return self

    @property
    def experiments(self) -> Iterator[str]:
        """Names of the experiments whose runs decide it. Sizes need no runs."""
        tests: tuple[Comparison | Ranks | Unchanged, ...] = (*self.comparisons, *self.ranks, *self.unchanged)
        return (test.experiment for test in tests)


class Ledger(Frozen):
    """The file `results/paper/claims.yaml`.

    Attributes:
        margin: difference in points below which two rows are equal.
        margins: the margin of columns on other scales.
    """

    margin: float = Field(gt=0)
    margins: Mapping[str, float] = {}
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _ids_differ(self) -> Ledger:
        ids = [claim.id for claim in self.claims]
        repeated = sorted({i for i in ids if ids.count(i) > 1})
        if repeated:
            raise ValueError(f"two claims have the id {repeated[0]!r}")
        return self

    @property
    def experiments(self) -> list[str]:
        """Names of all experiments whose runs decide a claim."""
        return list(dict.fromkeys(name for claim in self.claims for name in claim.experiments))

    def margin_of(self, comparison: Comparison, column: str | None) -> float:
        """The difference below which the rows are equal, at most half of the claimed difference."""
        margin = self.margins.get(column or "", self.margin)
        return min(margin, comparison.at_least / 2) if comparison.at_least else margin


def load_ledger() -> Ledger:
    """The paper's claims."""
    return load_yaml(PAPER / "claims.yaml", Ledger)
