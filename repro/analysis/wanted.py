"""What more data would decide a claim, if differences and spreads stay as they are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil, log

from repro.analysis.rounds import SignedRank
from repro.analysis.statistics import Estimate
from repro.analysis.verdicts import FEWEST_RUNS, Tested, Wanted

# Limits of what is proposed: number of seeds, and factor on the number of items.
_MOST_SEEDS, _MOST_ITEMS = 100, 1000
# Of what is proposed for a claim about time.
_MOST_ROUNDS = 500


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


def least(options: Sequence[Wanted]) -> Wanted | None:
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
