"""Pseudo-values against leaving items out one by one, and against the spread of fresh samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from repro.benchmarks.glue.scoring import correlation
from repro.benchmarks.jackknife import jackknife


def test_pseudo_values_are_those_of_leaving_items_out() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    value, pseudo = correlation(x, y)
    assert value == pytest.approx(pearsonr(x, y).statistic)
    without = [pearsonr(np.delete(x, i), np.delete(y, i)).statistic for i in range(9)]
    brute = 9 * value - 8 * np.array(without)
    np.testing.assert_allclose(pseudo, brute - brute.mean() + value, atol=1e-12)


def test_their_mean_is_the_metric_and_their_spread_is_the_metrics() -> None:
    generator = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(300):
        x = generator.normal(size=80)
        value, pseudo = correlation(x, x + generator.normal(size=80))
        assert pseudo.mean() == pytest.approx(value)
        values.append(value)
        errors.append(pseudo.std(ddof=1) / np.sqrt(80))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_a_mean_has_its_items_as_pseudo_values() -> None:
    items = np.array([[1.0, 0], [1, 1], [1, 5]])
    value, pseudo = jackknife(items, lambda sums: sums[..., 1] / sums[..., 0])
    assert value == 2
    np.testing.assert_allclose(pseudo, [0, 1, 5])


def test_what_does_not_vary_correlates_with_nothing() -> None:
    assert correlation(np.full(5, 0.3), np.arange(5.0))[0] == 0
    assert correlation(np.array([1.0]), np.array([2.0]))[0] == 0
