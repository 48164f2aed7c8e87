"""Claims that are counted instead of tested: adapter sizes, ranks of updates, entries of ΔW that stay 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from repro.analysis.ledger import Claim, Ranks, Sizes, Unchanged
from repro.config import ConfigError
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, PlannedRow, expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.json_files import DamagedFile
from repro.runs.known_ranks import Rank, known_run_ranks
from repro.runs.store import Store

# Sizes that differ by less than 0.5 % count as equal, since the paper prints three digits.
SAME_SIZE = 0.005
# Share of entries of ΔW that are exactly 0: "some" is at least the first, "none" is below the second.
_SOME, _NONE = 0.01, 1e-4


@dataclass(frozen=True)
class Fact:
    """One counted fact.

    Attributes:
        of: the row or part that it is about.
        found: the count and what it is compared with, as text.
        holds: whether it is as claimed; None without a finished run.
    """

    block: str
    of: str
    found: str
    holds: bool | None


def facts(claim: Claim, plans: Mapping[str, Plan], store: Store) -> tuple[Fact, ...]:
    """All facts of a claim. Sizes are those of the paper's own models under every profile and need no run.

    Args:
        plans: the claim's experiments, by name.

    Raises:
        ConfigError: the claim's patterns match no row.
    """
    found: list[Fact] = []
    for sizes in claim.sizes:
        found += _sizes(sizes, _paper_rows(sizes.experiment))
    for ranks in claim.ranks:
        found += _ranks(ranks, plans[ranks.experiment], store)
    for unchanged in claim.unchanged:
        found += _unchanged(unchanged, plans[unchanged.experiment], store)
    if not found:
        raise ConfigError(f"results/paper/claims.yaml, {claim.id}: its patterns match no rows to count in")
    return tuple(found)


def size_holds(relation: str, own: float, other: float) -> bool:
    """Whether two sizes satisfy a relation of `Sizes`."""
    same = abs(own - other) <= SAME_SIZE * max(own, other)
    if relation == "equal":
        return same
    return own < other and not same if relation == "fewer" else own < other or same


@cache
def _paper_rows(experiment: str) -> list[PlannedRow]:
    planned = expand(load_experiment(experiment), load_profile("paper"), [0], local_data=False)
    return [row for row in planned.rows if not row.extra]


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _sizes(sizes: Sizes, rows: Sequence[PlannedRow]) -> Iterator[Fact]:
    for row in (row for row in rows if matches(row.id, sizes.rows)):
        if sizes.percent_below is not None:
            share = row.trainable_percent
            found = f"{share:.2f} % of all parameters, claimed limit {sizes.percent_below:g} %"
            yield Fact(row.block, row.label, found, share < sizes.percent_below)
            continue
        for other in rows:
            if other.block == row.block and other.id != row.id and matches(other.id, sizes.than):
                counts = (row.trainable_parameters, other.trainable_parameters)
                found = f"{counts[0]:,} against {counts[1]:,} of {other.label}"
                assert sizes.relation is not None
                yield Fact(row.block, row.label, found, size_holds(sizes.relation, *counts))


def _ranks(ranks: Ranks, planned: Plan, store: Store) -> Iterator[Fact]:
    rows = {row.id: row for row in planned.rows}
    if ranks.row not in rows or (ranks.of is not None and ranks.of not in rows):
        return
    row = rows[ranks.row]
    own, label = _trained(row, ranks.part, store), f"{row.label}, {ranks.part}"
    if not own:
        yield Fact(row.block, label, "no finished run with computed ranks", None)
        return
    mean, ceiling = _mean_rank(own), sum(r.ceiling for r in own) / len(own)
    if ranks.within_factors:
        most, factors = max(r.numerical for r in own), row.specs[0].method.printed_rank or 0
        yield Fact(row.block, label, f"at most {most}, with factors of rank {factors}", most <= factors)
    if ranks.at_least is not None:
        share = sum(r.numerical / r.ceiling for r in own) / len(own)
        found = (
            f"{mean:.0f} of {ceiling:.0f}, {share:.1%}; at least {ranks.at_least:.0%} counts as almost full"
        )
        yield Fact(row.block, label, found, share >= ranks.at_least)
    if ranks.below is not None:
        other = _mean_rank(_trained(row, ranks.below, store))
        found = f"{mean:.2f}, against {other:.2f} of its {ranks.below}"
        yield Fact(row.block, label, found, mean < other)
    if ranks.times is not None and ranks.of is not None:
        others = _trained(rows[ranks.of], "update", store)
        found = "no finished run to compare with"
        if others:
            found = f"{mean:.0f}, {mean / _mean_rank(others):.0f} times the {_mean_rank(others):.0f} of "
            found += f"{rows[ranks.of].label}; {ranks.times:g} times counts as much larger"
        yield Fact(row.block, label, found, mean >= ranks.times * _mean_rank(others) if others else None)


def _trained(row: PlannedRow, part: str, store: Store) -> list[Rank]:
    found: list[Rank] = []
    for spec in row.specs:
        with suppress(DamagedFile):  # `repro.analysis.damaged_files` names it
            known = known_run_ranks(spec, store)
            found += [] if known is None else [rank for rank in known.trained if rank.part == part]
    return found


def _mean_rank(ranks: Sequence[Rank]) -> float:
    return sum(rank.numerical for rank in ranks) / len(ranks)


def _unchanged(unchanged: Unchanged, planned: Plan, store: Store) -> Iterator[Fact]:
    for row in planned.rows:
        some = matches(row.id, unchanged.some)
        if not some and not matches(row.id, unchanged.none):
            continue
        shares = [share for spec in row.specs for share in _last_shares(store, spec)]
        if not shares:
            yield Fact(row.block, row.label, "no finished run with this diagnostic", None)
            continue
        share = sum(shares) / len(shares)
        found = f"{share:.1%} of the entries of ΔW are exactly 0, claimed: {'some' if some else 'none'}"
        yield Fact(row.block, row.label, found, share >= _SOME if some else share < _NONE)


def _last_shares(store: Store, spec: RunSpec) -> list[float]:
    looks = None
    with suppress(DamagedFile):  # `repro.analysis.damaged_files` names it
        looks = store.diagnostics(spec)
    series = [] if looks is None else [layer.get("unchanged") for layer in looks.layers.values()]
    return [values[-1] for values in series if values and values[-1] is not None]
