"""Intervals of simulated experiments cover the truth as often as they say; scripts/coverage.py has more."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.coverage import MIXES, coverage, worst_error

TRIALS = 200
# 95 %, less three standard errors of the simulation.
ENOUGH = 0.95 - 3 * np.sqrt(0.95 * 0.05 / TRIALS)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("mix", "binary", "too_narrow"),
    [("items", True, "seeds only"), ("seeds", False, "items only"), ("all", True, "items only")],
)
def test_intervals_cover_the_truth_and_those_without_seeds_or_items_do_not(
    mix: str, binary: bool, too_narrow: str, seeds: int
) -> None:
    covered, _ = coverage(MIXES[mix], seeds, 64, binary, TRIALS)
    assert covered["own"] >= ENOUGH
    assert covered[too_narrow] < ENOUGH


def test_errors_are_as_rare_as_stated_at_any_share_and_level_and_satterthwaites_are_not() -> None:
    for level in (0.05, 0.01):
        satterthwaite, own = worst_error(3, level)
        assert own <= level * 1.001
        assert satterthwaite > 1.5 * level
