"""What comparisons borrow for the seeds' variance: known priors, Student's p-values, simulated errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from repro.analysis.claims import _compared
from repro.analysis.finished import runs_by_column
from repro.analysis.ledger import Claim, Comparison, Ledger
from repro.analysis.moderated import Prior, Priors, moderated, outlying, prior, seed_means
from repro.analysis.paired import paired_difference
from repro.analysis.statistics import ACCURACIES, Spread, spread
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.states import RunState, State
from scripts.coverage import LEVELS, moderated_errors
from tests.analysis.test_claims import result


def _rows(seeds: int, freedom: float, count: int = 20000) -> list[dict[int, float]]:
    """Rows whose variances are scaled inverse chi-squared, and that share what a seed does."""
    rng = np.random.default_rng(seeds)
    luck = 3.0 * freedom / rng.chisquare(freedom, count) if np.isfinite(freedom) else np.full(count, 3.0)
    table = rng.normal(0, np.sqrt(luck)[:, None], (count, seeds)) + rng.normal(0, 10, seeds)
    return [dict(enumerate(row)) for row in table.tolist()]


@pytest.mark.parametrize(("seeds", "freedom"), [(3, 6.0), (5, 12.0)])
def test_the_prior_is_the_one_that_variances_were_drawn_from(seeds: int, freedom: float) -> None:
    found = prior(_rows(seeds, freedom))
    assert found is not None
    assert found.freedom == pytest.approx(freedom, rel=0.15)
    # The mean of a scaled inverse chi-squared distribution, of a difference of two rows.
    assert found.variance == pytest.approx(2 * 3.0 * freedom / (freedom - 2), rel=0.15)


def test_equal_variances_leave_only_the_limit_and_unequal_ones_little() -> None:
    rng = np.random.default_rng(0)
    noise, luck = rng.normal(0, 1, (400, 10)), rng.normal(0, 10, 10)
    equal = prior([dict(enumerate(row)) for row in (noise + luck).tolist()])
    assert equal is not None and equal.freedom > 40
    noise[::2] *= 10
    unequal = prior([dict(enumerate(row)) for row in (noise + luck).tolist()])
    assert unequal is not None and unequal.freedom < 3


def test_too_little_to_learn_from_lends_nothing() -> None:
    rows = [{0: 1.0, 1: 2.0}, {0: 4.0, 1: 3.0}, {0: 1.0, 1: 5.0}]
    assert prior([]) is None and prior(rows[:2]) is None
    assert prior([*rows[:2], {0: 1.0, 2: 5.0}]) is None  # no two seeds in common
    assert prior([{0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}, {0: 7.0, 1: 8.0}]) is None  # seeds do the same to all
    found = prior(rows)
    assert found is not None and found.freedom <= 1


def test_a_row_that_varies_far_more_than_the_others_is_outlying() -> None:
    """Cochran's test: one table in a hundred of equal rows has one by chance."""
    rng = np.random.default_rng(0)

    def found(largest: float) -> list[list[int]]:
        tables = rng.normal(0, 1, (1500, 9, 3)) + rng.normal(0, 5, (1500, 1, 3))
        tables[:, 4] += rng.normal(0, largest, (1500, 3))
        return [outlying([dict(enumerate(row)) for row in table]) for table in tables.tolist()]

    assert 0.004 < np.mean([bool(places) for places in found(0)]) < 0.02
    assert np.mean([places[:1] == [4] for places in found(15)]) > 0.9
    assert outlying([{0: 1.0, 1: 2.0}, {0: 4.0, 1: 3.0}, {0: 1.0, 1: 90.0}]) == []  # too few to tell


def test_seeds_that_only_some_rows_have_count_where_they_say_more() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (8, 5))
    few = [dict(enumerate(row[:3])) for row in table.tolist()]
    five = [*few[:6], *(dict(enumerate(row)) for row in table[6:].tolist())]
    assert prior(five) == prior(few)
    # With six rows of five seeds, 4 x 4 degrees of freedom are more than 6 x 2.
    most = [*(dict(enumerate(row)) for row in table[:6].tolist()), *few[6:]]
    assert prior(most) == prior(most[:6])


def test_a_moderated_comparison_is_the_weighted_variance_with_the_sum_of_degrees_of_freedom() -> None:
    own = Spread(items=0.0, noise=0.5, seeds=1.5, runs=3, per_task=64, item_freedom=100)
    found = moderated(own, Prior(variance=5.0, freedom=3.0)).estimate(4.0, 3)
    variance = (3 * 5.0 + 2 * 2.0) / 5
    assert found.p_below(0) == pytest.approx(stats.t.sf(4 / np.sqrt(variance / 3), 5))
    # At most twice its own degrees of freedom, and no less variance than it has.
    found = moderated(own, Prior(variance=1.0, freedom=50.0)).estimate(4.0, 3)
    assert found.p_below(0) == pytest.approx(stats.t.sf(4 / np.sqrt(2.0 / 3), 6))
    # More seeds have their own degrees of freedom beside the borrowed ones.
    found = moderated(own, Prior(variance=5.0, freedom=3.0)).estimate(4.0, 10)
    assert found.p_below(0) == pytest.approx(stats.t.sf(4 / np.sqrt(variance / 10), 12))


def test_one_seed_or_items_that_are_alike_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    for outcomes in (rng.normal(size=(1, 30)), np.full((3, 30), 100.0)):
        own = spread([outcomes], ACCURACIES)
        assert own is not None and moderated(own, Prior(5.0, 4.0)) == own == moderated(own, None)


def test_rows_are_those_that_train_each_once_by_the_mean_of_columns() -> None:
    """Tables 5 and 6 share a row, which counts once; the base model of Table 1 does not train."""
    plans = {
        name: expand(load_experiment(name), load_profile("laptop"), [0, 1, 2])
        for name in ("table1", "table5", "table6")
    }
    means: dict[str, float] = {}

    def run(spec: RunSpec) -> RunState:
        draw = np.random.default_rng(int(spec.hash[:8], 16))
        tasks = {task: "".join(map(str, draw.integers(0, 2, 20))) for task in spec.benchmark.columns}
        means[spec.hash] = 100 * float(np.mean([list(map(int, digits)) for digits in tasks.values()]))
        return RunState(spec, State.DONE, result(tasks))

    states = {
        name: {spec.hash: run(spec) for spec in planned.runs.values()} for name, planned in plans.items()
    }
    rows = [row for planned in plans.values() for row in planned.rows if row.specs[0].method.trains]
    apart = {tuple(s.hash for s in row.specs): {s.seed: means[s.hash] for s in row.specs} for row in rows}
    assert len(apart) == len(rows) - 1
    first = plans["table1"].rows[0]
    expected = prior(list(apart.values()))
    found = Priors(plans, states).of(plans["table1"], [first], list(first.columns), "score")
    assert found is not None and expected is not None
    assert (found.variance, found.freedom) == pytest.approx((expected.variance, expected.freedom))
    assert Priors(plans, states).of(plans["table1"], [first], list(first.columns), "probability") is None

    # A comparison of the ledger uses it, the difference of a table does not.
    comparison = Comparison(experiment="table6", better=("relu",), worse=("abs",))
    claim = Claim(id="x", where="x", text="x", comparisons=(comparison,))
    ledger = Ledger(margin=1, claims=(claim,))
    (one,) = _compared(claim, comparison, ledger, plans["table6"], states["table6"], Priors(plans, states))
    assert one.spread is not None and one.difference is not None
    assert one.spread.borrowed == min(4.0, expected.freedom) > 0
    results = {spec_hash: state.result for spec_hash, state in states["table6"].items()}
    relu, abs_ = (
        runs_by_column(next(row for row in plans["table6"].rows if row.id == name), results)
        for name in ("relu", "abs")
    )
    plain = paired_difference(relu, abs_, list(first.columns))
    assert plain is not None and plain.mean == pytest.approx(one.difference.mean)
    assert plain.parts[-1][1] == 2 and one.difference.parts[-1][1] == 2 + one.spread.borrowed


def test_means_of_seeds_need_every_column() -> None:
    row = {"a": {0: result({"a": "11"}), 1: result({"a": "10"})}, "b": {1: result({"b": "1000"})}}
    assert seed_means(row, ["a", "b"], "score") == {1: pytest.approx((50 + 25) / 2)}
    assert seed_means(row, ["a", "c"], "score") == {} == seed_means(row, ["a"], "probability")


@pytest.mark.parametrize("kind", ["equal", "one at 9"])
def test_errors_stay_near_what_is_stated_and_power_grows(kind: str) -> None:
    """In 400 experiments of six rows and three seeds; docs/statistics.md has more."""
    found = moderated_errors(kind, 6, 3, 400)
    assert found.every[0][1] < LEVELS[0] + 0.01
    # The row that varies most, at 0.2 %: about 4 times the level, of 4,000 tests.
    assert found.first[1][1] < LEVELS[1] * (2 if kind == "equal" else 6)
    own, shared = found.found[4]
    assert shared > 3 * own
