"""Power, and projections to more seeds and items, compared with simulated experiments of that size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from repro.analysis.power import power, smallest_gain
from repro.analysis.statistics import Spread, mean_over_tasks, spread

ITEM_SD, NOISE_SD, SEED_SD = 20.0, 30.0, 2.0


def draw(rng: np.random.Generator, seeds: int, items: int, tasks: int = 4) -> list[NDArray[np.float64]]:
    luck = rng.normal(0, SEED_SD, (seeds, 1))
    return [
        1.0 + luck + rng.normal(0, ITEM_SD, (1, items)) + rng.normal(0, NOISE_SD, (seeds, items))
        for _ in range(tasks)
    ]


def test_a_spread_is_taken_apart_as_it_was_put_together() -> None:
    """Means over 200 experiments of 5 seeds and 50 items in 4 tasks."""
    rng = np.random.default_rng(0)
    found = [spread(draw(rng, 5, 50)) for _ in range(200)]
    parts = np.array([[s.items, s.noise, s.seeds] for s in found if s])
    expected = np.array([ITEM_SD**2 / 200, NOISE_SD**2 / 200, SEED_SD**2])
    # Of the seeds the mean over 200 has a standard error of a tenth.
    np.testing.assert_allclose(parts.mean(axis=0), expected, rtol=0.25)


@pytest.mark.parametrize(("seeds", "more_items"), [(5, 1.0), (10, 1.0), (5, 4.0), (20, 2.0)])
def test_a_projection_is_what_an_experiment_of_that_size_reports(seeds: int, more_items: float) -> None:
    rng = np.random.default_rng(1)
    projected, reported = [], []
    for _ in range(200):
        found = spread(draw(rng, 5, 40))
        assert found is not None
        error = found.estimate(1.0, seeds, more_items).error
        assert error is not None
        projected.append(error**2)
        other = mean_over_tasks(draw(rng, seeds, int(40 * more_items)))
        assert other.error is not None
        reported.append(other.error**2)
    assert np.mean(projected) == pytest.approx(np.mean(reported), rel=0.12)


def test_at_its_own_size_it_is_the_estimate_itself() -> None:
    tasks = draw(np.random.default_rng(2), 4, 60)
    found, estimate = spread(tasks), mean_over_tasks(tasks)
    assert found is not None
    assert found.estimate(estimate.mean, 4).error == pytest.approx(estimate.error)


def test_one_seed_says_nothing_of_seeds_and_is_a_lower_bound() -> None:
    tasks = draw(np.random.default_rng(3), 1, 60)
    found, estimate = spread(tasks), mean_over_tasks(tasks)
    assert found is not None and found.seeds == found.items == 0
    assert found.estimate(1.0, 1).error == pytest.approx(estimate.error)
    four = found.estimate(1.0, 4).error
    assert four is not None and estimate.error is not None
    assert four == pytest.approx(estimate.error / 2)


def test_a_single_item_has_no_spread() -> None:
    assert spread([np.ones((3, 1))]) is None


@pytest.mark.parametrize(("gain", "seeds"), [(0.0, 1), (4.0, 3), (3.0, 5)])
def test_power_is_the_share_of_experiments_whose_interval_excludes_0(gain: float, seeds: int) -> None:
    """One seed leaves out the luck of the seed, and so excludes 0 too often."""
    truth = Spread(ITEM_SD**2 / 160, NOISE_SD**2 / 160, SEED_SD**2, 3, 40, 156)
    expected = power(truth, gain, seeds, 80)
    rng, trials, excluded = np.random.default_rng(6), 500, 0
    for _ in range(trials):
        estimate = mean_over_tasks([task + gain - 1.0 for task in draw(rng, seeds, 80)])
        assert estimate.half_width is not None
        excluded += abs(estimate.mean) > estimate.half_width
    assert 0.1 < expected < 0.9
    assert excluded / trials == pytest.approx(expected, abs=3 * np.sqrt(0.25 / trials))


def test_the_smallest_gain_is_found_as_often_as_wanted() -> None:
    found = spread(draw(np.random.default_rng(7), 3, 40))
    assert found is not None
    gains = [smallest_gain(found, seeds, 100) for seeds in (2, 3, 5, 10)]
    assert gains == sorted(gains, reverse=True)
    assert [power(found, gain, seeds, 100) for gain, seeds in zip(gains, (2, 3, 5, 10), strict=True)] == (
        pytest.approx([0.8] * 4, abs=0.002)
    )
    nothing = Spread(0, 0, 0, 3, 40, 156)
    assert power(nothing, 0.1, 3, 40) == 1 and power(nothing, 0.0, 3, 40) == 0
