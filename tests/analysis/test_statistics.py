"""Intervals, compared with textbook formulas and with simulated experiments of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from repro.analysis.statistics import ACCURACIES, DIFFERENCES, mean_over_tasks, outcomes_array, spread


def test_one_run_of_one_task_is_the_textbook_interval_of_a_mean() -> None:
    outcomes = np.array([[1.0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1]])
    estimate = mean_over_tasks([outcomes])
    low, high = stats.t.interval(0.95, 11, loc=outcomes.mean(), scale=stats.sem(outcomes[0]))
    assert estimate.mean == pytest.approx(outcomes.mean())
    assert estimate.half_width == pytest.approx((high - low) / 2)


def test_the_average_is_unweighted_over_tasks() -> None:
    estimate = mean_over_tasks([np.array([[1.0, 1.0]]), np.array([[0.0] * 98 + [1.0] * 2])])
    assert estimate.mean == pytest.approx(0.51)


def test_items_that_every_seed_agrees_on_are_not_counted_once_a_seed() -> None:
    """Three copies of one run say no more about other items than the run itself."""
    run = np.array([[1.0, 0, 1, 1, 0, 1, 0, 0, 1, 1]])
    once = mean_over_tasks([run])
    thrice = mean_over_tasks([np.repeat(run, 3, axis=0)])
    assert thrice.half_width == pytest.approx(once.half_width)


def test_intervals_of_one_run_cover_the_truth_as_often_as_they_say() -> None:
    """Items of varying difficulty; tests/analysis/test_coverage.py has several seeds."""
    rng = np.random.default_rng(0)
    trials, covered = 600, 0
    for _ in range(trials):
        outcomes = [(rng.random((1, 40)) < rng.uniform(0.2, 0.8, 40)).astype(float) for _ in range(3)]
        estimate = mean_over_tasks(outcomes)
        covered += abs(estimate.mean - 0.5) <= estimate.half_width
    # Nominal 95 %, less three standard errors of the simulation.
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials) <= covered / trials < 1.0


def test_what_seeds_and_items_do_together_counts_once() -> None:
    """The mean estimated variance is the true one; counted twice, the interaction would add a quarter."""
    rng = np.random.default_rng(4)
    seeds, items, found = 5, 50, []
    for _ in range(400):
        luck, kind = rng.normal(0, 2, (seeds, 1)), rng.normal(0, 20, (4, 1, items))
        error = mean_over_tasks(list(luck + kind + rng.normal(0, 30, (4, seeds, items)))).error
        assert error is not None
        found.append(error**2)
    truth = 20**2 / (4 * items) + (2**2 + 30**2 / (4 * items)) / seeds
    assert np.mean(found) == pytest.approx(truth, rel=0.08)


def test_an_interval_of_two_parts_has_the_quantile_of_each_and_p_values_are_its_tails() -> None:
    rng = np.random.default_rng(5)
    tasks = list(rng.normal(0, 2, (2, 1, 12)) + rng.normal(0, 0.5, (3, 1)) + rng.normal(0, 1, (2, 3, 12)))
    estimate = mean_over_tasks(tasks)
    assert estimate.half_width is not None and len(estimate.parts) == 2
    (items, many), (seeds, few) = estimate.parts
    by_hand = np.sqrt(stats.t.ppf(0.975, many) ** 2 * items + stats.t.ppf(0.975, few) ** 2 * seeds)
    assert few == 2 and estimate.half_width == pytest.approx(by_hand)
    assert seeds == pytest.approx(np.var(np.mean(tasks, axis=(0, 2)), ddof=1) / 3)
    for side in (1, -1):
        bound = estimate.mean + side * estimate.half_width
        tails = [estimate.p_below(bound), estimate.p_above(bound)]
        assert tails[::side] == pytest.approx([0.975, 0.025])
    assert estimate.p_below(estimate.mean - 1e6) < 1e-9 and estimate.p_above(estimate.mean - 1e6) > 1 - 1e-9


def test_it_is_never_narrower_than_items_alone() -> None:
    """Seeds whose means agree by chance, while their items do not."""
    task = np.array([[1.0, 0, 1, 0, 1, 1], [0.0, 1, 0, 1, 1, 1]])
    alone = stats.sem(task.mean(axis=0)) * stats.t.ppf(0.975, 5)
    assert mean_over_tasks([task]).half_width == pytest.approx(alone)


def test_differences_of_paired_outcomes_are_a_paired_t_interval() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.integers(0, 2, (1, 50)).astype(float) for _ in range(2))
    estimate = mean_over_tasks([one - other])
    low, high = stats.ttest_rel(one[0], other[0]).confidence_interval(0.95)
    assert estimate.mean == pytest.approx((low + high) / 2)
    assert estimate.half_width == pytest.approx((high - low) / 2)


def test_a_single_item_has_no_interval() -> None:
    assert mean_over_tasks([np.array([[1.0]])]).half_width is None


def test_runs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different numbers of items: \[2, 3\]"):
        outcomes_array(["101", "10"])
    with pytest.raises(ValueError, match=r"same runs, got \[1, 2\]"):
        mean_over_tasks([np.ones((1, 4)), np.ones((2, 4))])


@pytest.mark.parametrize("value", [0.0, 100.0])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("items", [2, 4, 100])
def test_all_wrong_and_all_right_have_the_exact_interval_of_a_binomial(
    value: float, seeds: int, items: int
) -> None:
    """Seeds share their items, so three seeds that agree say no more than one."""
    estimate = mean_over_tasks([np.full((seeds, items), value)], ACCURACIES)
    exact = stats.binomtest(round(value / 100) * items, items).proportion_ci(0.95, "exact")
    assert estimate.half_width == pytest.approx(100 * (exact.high - exact.low))


@pytest.mark.parametrize("items", [2, 5, 12])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_row_better_in_every_item_is_the_sign_test(items: int, sign: int) -> None:
    estimate = mean_over_tasks([np.full((1, items), sign * 100.0)], DIFFERENCES)
    sides = [estimate.p_below(0), estimate.p_above(0)][::sign]
    assert sides == [pytest.approx(stats.binomtest(items, items, alternative="greater").pvalue), 1.0]
    assert 2 * sides[0] == pytest.approx(2.0 ** (1 - items))


@pytest.mark.parametrize("values", [[100.0, 0.0], [0.0, 0.0], [100 / 3, 100 / 3]])
def test_a_p_value_without_variance_covers_every_way_to_it(values: list[float]) -> None:
    """Unlike items, a share of each of two tasks of five, that put the true mean `distance` lower."""
    estimate = mean_over_tasks([np.full((1, 5), value) for value in values], ACCURACIES)
    for distance in (1.0, 10.0, 24.0):
        for share in np.linspace(0, 1, 101):
            rest = distance - share * values[0] / 2
            other = 0.0 if rest <= 0 else rest / (values[1] / 2) if values[1] else np.inf
            if other <= 1:
                chance = ((1 - share) * (1 - other)) ** 5
                assert estimate.p_below(estimate.mean - distance) >= chance - 1e-12


def test_rounding_is_no_variance() -> None:
    """The mean of equal numbers may differ from them in its last digit."""
    for size in (3, 7, 11):
        assert mean_over_tasks([np.full((3, size), 100 / 3)]).error is None


def test_a_projection_without_variance_is_exact_as_well() -> None:
    tasks = [np.full((1, 6), 100.0)]
    found, estimate = spread(tasks, DIFFERENCES), mean_over_tasks(tasks, DIFFERENCES)
    assert found is not None
    assert found.estimate(100.0, 1).p_below(0) == pytest.approx(estimate.p_below(0))
    assert found.estimate(100.0, 1, more_items=2.0).p_below(0) == pytest.approx(2.0**-12)


def test_equal_values_of_a_metric_without_limits_have_no_interval() -> None:
    estimate = mean_over_tasks([np.zeros((1, 9))])
    assert estimate.half_width is None
    assert estimate.p_below(0) == estimate.p_above(1) == 1


@pytest.mark.parametrize("tasks", [[np.ones((1, 0))], [np.ones((1, 4)), np.ones((1, 0))]])
def test_no_items_are_refused(tasks: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="without items"):
        mean_over_tasks(tasks)
