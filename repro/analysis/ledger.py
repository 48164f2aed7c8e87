"""The paper's statements as data: what each of them says, and what would show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from repro.config import Frozen, load_yaml
from repro.paths import PAPER


class Comparison(Frozen):
    """Rows that are said to be better than others of the same block, by patterns of their ids.

    Attributes:
        better, worse: patterns; a row of this project's own (`extra`) is compared with `extra` alone.
        size: which of the others count: `equal`, those whose trained parameters differ by less than a tenth;
            `same_or_more`, those that train no less than the better row, up to a tenth.
        columns: each is compared by itself; none named: the average is.
        at_least: the difference that is claimed, in points; 0 says no more than "better".
        at_most: the largest difference that its words still cover, for instance those of a "marginal" drop.
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


class Sizes(Frozen):
    """What is said of trained parameters: counted on the paper's own models, without any run.

    Attributes:
        rows: patterns of the rows that it is said of.
        than: patterns of the rows of the same block that they are compared with.
        relation: `fewer`, `same_or_fewer` or `equal`, to within the half of a percent.
        percent_below: share of all parameters that no row of `rows` reaches.
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
    """What is said of a matrix's rank, the mean over layers, in the finished runs of a row.

    Attributes:
        row, part: the row's id, and what of it: `update`, `magnitude` or `direction`.
        at_least: share of the largest rank that the shapes allow.
        within_factors: whether no layer's rank exceeds that of the method's factors.
        below: a part of the same row whose rank is said to be higher.
        times, of: so many times the rank of that row's update.
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
    """What is said of entries of dW that are exactly 0, at the end of training.

    Attributes:
        some: rows that are said to have them, at least a hundredth of all entries.
        none: rows that are said to have none.
    """

    experiment: str
    some: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


class Overhead(Frozen):
    """Time or memory that a method takes beyond another's, at most.

    Attributes:
        percent: of the other's.
        ratios: names of figures of `repro bench`, one for each reading of the claim.
    """

    percent: float
    ratios: tuple[str, ...] = Field(min_length=1)


class Claim(Frozen):
    """A statement of the paper. It holds if everything does that it is tested by.

    Attributes:
        where: its place in the paper.
        text: what it says, in this project's words.
        models: the base models that it is about; none named: whatever a profile has.
        unmeasured: why no run can decide it, where that is so.
        by_formula: why it needs none, where it follows from the formulas alone.
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
                f"{self.id}: a claim has comparisons, or sizes, ranks and unchanged, or overhead, or "
                "unmeasured, or by_formula, and one of them alone"
            )
        return self

    @property
    def experiments(self) -> Iterator[str]:
        """Names of those whose runs decide it. Sizes need none."""
        tests: tuple[Comparison | Ranks | Unchanged, ...] = (*self.comparisons, *self.ranks, *self.unchanged)
        return (test.experiment for test in tests)


class Ledger(Frozen):
    """The file `results/paper/claims.yaml`.

    Attributes:
        margin: difference, in points, below which two rows are equal.
        margins: the same of columns that are on another scale.
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
        """Names of those that decide a claim."""
        return list(dict.fromkeys(name for claim in self.claims for name in claim.experiments))

    def margin_of(self, comparison: Comparison, column: str | None) -> float:
        """Below which difference its rows are equal; never more than half of what it claims."""
        margin = self.margins.get(column or "", self.margin)
        return min(margin, comparison.at_least / 2) if comparison.at_least else margin


def load_ledger() -> Ledger:
    """The paper's claims."""
    return load_yaml(PAPER / "claims.yaml", Ledger)
