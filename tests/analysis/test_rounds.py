"""Ratios of times, against scipy's signed-rank test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from repro.analysis.rounds import signed_rank

ROUNDS = np.random.default_rng(0).lognormal(np.log(1.08), 0.1, 15)


@pytest.mark.parametrize("exceeded", [False, True])
@pytest.mark.parametrize("bound", [-3.0, 0.0, 4.0])
def test_its_p_values_are_those_of_scipy(exceeded: bool, bound: float) -> None:
    found = signed_rank(ROUNDS, 5, exceeded)
    threshold = 1.05 + (bound if exceeded else -bound) / 100
    gains = (1 if exceeded else -1) * (np.log(ROUNDS) - np.log(threshold))
    for null, p in (("greater", found.p_below(bound)), ("less", found.p_above(bound))):
        assert p == pytest.approx(stats.wilcoxon(gains, alternative=null).pvalue)


def test_its_interval_has_the_ends_that_the_test_rejects() -> None:
    found = signed_rank(ROUNDS, 0, exceeded=True)
    logs = np.log(ROUNDS)
    grid = np.linspace(0.95, 1.25, 601)
    kept = [r for r in grid if stats.wilcoxon(logs - np.log(r)).pvalue > 0.05]
    assert found.half_width == pytest.approx(50 * (kept[-1] - kept[0]), abs=0.06)
    means = [(one + other) / 2 for place, one in enumerate(logs) for other in logs[place:]]
    assert found.mean == pytest.approx(100 * (np.exp(np.median(means)) - 1))


@pytest.mark.parametrize("alternative", ["p_below", "p_above"])
def test_it_rejects_a_true_limit_in_at_most_one_of_twenty_benches_and_a_disturbed_round_decides_nothing(
    alternative: str,
) -> None:
    generator = np.random.default_rng(1)
    # Two equal cases; every fifth measurement of either takes up to four times as long.
    times = generator.lognormal(0, 0.05, (2, 2000, 12))
    times *= np.where(generator.random(times.shape) < 0.2, generator.uniform(1, 4, times.shape), 1)
    rejected = [
        getattr(signed_rank(one / other, 0), alternative)(0) <= 0.05
        for one, other in zip(*times, strict=True)
    ]
    assert np.mean(rejected) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(rejected) > 0.025
    calm = np.full(20, 1.001)
    calm[7] = 40.0
    assert signed_rank(calm, 5).p_below(0) < 1e-3 and signed_rank(calm, 5).half_width == pytest.approx(
        0, abs=0.1
    )


def test_few_rounds_have_no_interval_and_decide_nothing() -> None:
    few = signed_rank([0.5] * 5, 5)
    assert few.half_width is None and few.p_below(0) == 1 / 32
    assert signed_rank([0.5] * 6, 5).half_width == 0
    assert few.repeated(4).p_below(0) == 2**-20
