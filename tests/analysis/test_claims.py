"""The claims ledger: its tests on simulated runs with a known truth, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import log
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from repro.analysis.claims import _compared, score_claims
from repro.analysis.ledger import Claim, Comparison, Ledger, load_ledger
from repro.analysis.moderated import Priors
from repro.analysis.paired import paired_difference
from repro.analysis.statistics import Estimate, Spread, holm, mean_over_tasks
from repro.analysis.verdicts import LEVEL, Scored, Tested, Wanted
from repro.analysis.wanted import wanted
from repro.benchmarks.base import TaskScore
from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.benchmarks.e2e.benchmark import E2E
from repro.benchmarks.glue.benchmark import Glue
from repro.config import ConfigError, parse
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import list_profiles, load_profile
from repro.plans.spec import RunSpec
from repro.report.claims import claims_page
from repro.report.standing import standing
from repro.runs.environment import environment
from repro.runs.json_files import write_json
from repro.runs.measurements import Card, Measured, Measurement, Ratio, speed_file, usable_speeds
from repro.runs.result import Result
from repro.runs.states import RunState, State
from repro.runs.store import Store


@cache
def _table1() -> Plan:
    return expand(load_experiment("table1"), load_profile("laptop"))


def _plans(profile: str) -> dict[str, Plan]:
    return {name: expand(load_experiment(name), load_profile(profile)) for name in load_ledger().experiments}


def test_holm_by_hand() -> None:
    """0.01, 0.02, 0.03 and 0.04 times 4, 3, 2 and 1, and never less than the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_values_are_the_textbook_s() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, (1, 40))
    estimate = mean_over_tasks([differences])
    assert estimate.p_below(0) == pytest.approx(
        stats.ttest_1samp(differences[0], 0, alternative="greater").pvalue
    )
    assert estimate.p_above(0.5) == pytest.approx(
        stats.ttest_1samp(differences[0], 0.5, alternative="less").pvalue
    )
    assert estimate.p_below(0) + estimate.p_above(0) == pytest.approx(1)


def test_without_an_interval_nothing_is_rejected() -> None:
    for estimate in (Estimate(5.0, None, 1), mean_over_tasks([np.full((1, 1), 100.0)])):
        assert estimate.p_below(0) == estimate.p_above(1) == 1


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 2.0), (5, 2.0)])
def test_a_true_null_is_rejected_no_more_often_than_stated(seeds: int, seed_sd: float) -> None:
    """Without a true difference, only item and seed noise, at most 5 % of 600 trials are significant."""
    rng = np.random.default_rng(1)
    rejected = np.zeros(2)
    trials, tasks, items = 600, 4, 60
    for _ in range(trials):
        luck = rng.normal(0, seed_sd / 100, seeds)
        differences = []
        for _ in range(tasks):
            hard = rng.uniform(-0.1, 0.1, items)
            draw = rng.random((seeds, items))
            shift = luck[:, None] + hard[None, :]
            differences.append(100.0 * ((draw < 0.15 + shift / 2).astype(int) - (draw > 0.85 + shift / 2)))
        estimate = mean_over_tasks(differences)
        rejected += [estimate.p_below(0) <= 0.05, estimate.p_above(0) <= 0.05]
    assert (rejected / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)).all()


def result(
    outcomes: dict[str, str], items: str = "same", log_probabilities: tuple[float, ...] = ()
) -> Result:
    """A finished run with these outcomes."""
    scores = {
        task: TaskScore(
            metric="accuracy",
            value=1.0,
            items=len(digits),
            outcomes=digits,
            log_probabilities=log_probabilities,
            unparsed=0,
            constant=False,
        )
        for task, digits in outcomes.items()
    }
    return Result.model_construct(scores=scores, data_fingerprints={"test": items})


def test_differences_are_paired_by_item_seed_and_column() -> None:
    better = {"a": {0: result({"a": "1111"}), 1: result({"a": "1110"}), 2: result({"a": "0000"})}}
    worse = {"a": {0: result({"a": "1100"}), 1: result({"a": "1100"})}}
    found = paired_difference(better, worse, ["a"])
    assert found is not None
    assert (found.mean, found.runs) == (pytest.approx(100 * (2 / 4 + 1 / 4) / 2), 2)
    # The seed must be there in every column.
    better["b"], worse["b"] = {1: result({"b": "10"})}, {1: result({"b": "00"})}
    found = paired_difference(better, worse, ["a", "b"])
    assert found is not None and (found.mean, found.runs) == (pytest.approx((25 + 50) / 2), 1)
    assert paired_difference(better, {"a": {7: result({"a": "1"})}}, ["a"]) is None
    assert paired_difference(better, {"a": {0: result({"a": "1100"}, items="other")}}, ["a"]) is None


def test_differences_of_probabilities_are_in_percent_and_need_every_run() -> None:
    gold = [np.array([0.5, 0.25]), np.array([0.25, 0.125])]
    better, worse = (
        {"a": {0: result({"a": "11"}, log_probabilities=tuple(np.log(p).tolist()))}} for p in gold
    )
    found = paired_difference(better, worse, ["a"], "probability")
    assert found is not None and found.mean == pytest.approx((25 + 12.5) / 2)
    reference = stats.ttest_1samp(100 * (gold[0] - gold[1]), 0, alternative="greater").pvalue
    assert found.p_below(0) == pytest.approx(reference)
    score = paired_difference(better, worse, ["a"])
    assert score is not None and score.mean == 0
    older = {"a": {0: result({"a": "11"})}}
    assert paired_difference(better, older, ["a"], "probability") is None


def made(mean: float, error: float = 1.0, margin: float = 1.0, runs: int = 3, **bounds: float) -> Tested:
    """A comparison with this difference and so many degrees of freedom that it is normally distributed."""
    estimate = Estimate(mean, 2 * error, runs, parts=((error**2, 1e6),))
    return Tested("m", "a", "b", None, bounds.get("at_least", 0.0), bounds.get("at_most"), margin, estimate)


@pytest.mark.parametrize(
    ("tested", "holds", "fails", "equal"),
    [
        # "Better": above 0. Quantiles of the normal distribution, by hand.
        (made(1.645), 0.05, 0.95, 0.741),
        # A claimed gain of 0.8 is tested as 0.8: a difference of 0.8 is neither shown nor refuted.
        (made(0.8, at_least=0.8, margin=0.4), 0.5, 0.5, 0.655),
        (made(2.445, at_least=0.8, margin=0.4), 0.05, 0.95, 0.980),
        (made(-0.845, at_least=0.8, margin=0.4), 0.95, 0.05, 0.672),
        # "Marginally worse": above 0 and below 2, both one-sided, and outside of it on either side.
        (made(1.0, 0.5, at_most=2.0), 0.0228, 1.0, 0.5),
        (made(4.0, 0.5, at_most=2.0), 1.0, 2 * 3.17e-5, 1.0),
        # Two one-sided tests: 0 with an error of a third of the margin.
        (made(0.0, 1 / 3), 0.5, 0.5, 0.00135),
    ],
)
def test_a_comparison_is_tested_at_what_is_claimed(
    tested: Tested, holds: float, fails: float, equal: float
) -> None:
    assert tested.p_holds() == pytest.approx(holds, rel=0.01)
    assert tested.p_fails() == pytest.approx(fails, rel=0.01)
    assert tested.p_equal() == pytest.approx(equal, rel=0.01)


def simulated(claims: dict[str, list[Tested]], monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Verdicts of a ledger whose claims have these comparisons."""
    return [s.verdict for s in simulated_claims(claims, monkeypatch, folder)]


def simulated_claims(
    claims: dict[str, list[Tested]], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> list[Scored]:
    monkeypatch.setattr("repro.analysis.claims._compared", lambda claim, *_: claims[claim.id])
    comparison = Comparison(experiment="table1", better=("a",), worse=("b",))
    ledger = Ledger(
        margin=1,
        claims=tuple(Claim(id=name, text="x", where="x", comparisons=(comparison,)) for name in claims),
    )
    return score_claims(ledger, {"table1": _table1()}, Store(folder))


def test_a_claim_needs_all_of_its_comparisons_and_falls_with_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Six p-values are corrected: two claims with data, three each; a third one has none."""
    nothing = [Tested("m", "a", "b", None, 0.0, None, 1.0, None)]

    def verdict(*tested: Tested) -> str:
        claims = {"one": list(tested), "other": [made(0.0, 100.0)], "none": nothing}
        found = simulated(claims, monkeypatch, tmp_path)
        assert found[1:] == ["undecided", "not tested"]
        return found[0]

    # Quantiles of the normal distribution: 2.394 is 0.05 / 6, 2.638 is 0.05 / 6 / 2, of one in two.
    assert verdict(made(2.41), made(9.0)) == "reproduced"
    assert verdict(made(2.38), made(9.0)) == "undecided"
    assert verdict(made(9.0), made(-2.65)) == "contradicted"
    assert verdict(made(9.0), made(-2.63)) == "undecided"
    assert verdict(made(0.0, 0.3), made(0.2, 0.3)) == "equal"
    assert verdict(made(0.0, 0.3), made(0.5, 0.3)) == "undecided"


@pytest.mark.parametrize(
    ("score", "probability", "verdict", "said"),
    [
        # Holm covers six p-values of this claim and three of the other: 2.54 is the quantile of 0.05 / 9.
        (made(2.6), made(0.0), "reproduced", "reproduced"),
        (made(2.5), made(0.0), "undecided", "undecided"),
        (made(0.0), made(2.6), "reproduced", "reproduced by probability"),
        (made(0.0), made(-2.6), "contradicted", "contradicted by probability"),
        (
            made(9.0),
            made(-9.0),
            "reproduced",
            "reproduced by accuracy, contradicted by probability: accuracy and probability disagree",
        ),
        (made(9.0), made(9.0), "reproduced", "reproduced"),
        # Runs of an older scorer: six p-values, and 2.394 is the quantile of 0.05 / 6.
        (made(2.41), replace(made(0.0), difference=None), "reproduced", "reproduced"),
    ],
)
def test_probability_decides_what_accuracy_does_not(
    score: Tested,
    probability: Tested,
    verdict: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    both = replace(score, by_probability=probability)
    claims = {"one": [both], "other": [made(0.0, 100.0)]}
    scored = simulated_claims(claims, monkeypatch, tmp_path)
    assert scored[0].verdict == verdict and scored[1].verdict == "undecided"
    ledger = Ledger(margin=1, claims=tuple(s.claim for s in scored))
    page, short = (
        claims_page(ledger, scored, [load_profile("laptop")]),
        "\n".join(standing(scored, lambda _: [])),
    )
    assert f"| {said} |" in page
    assert ("By probability: a minus b" in short) is said.endswith(" by probability")
    assert ("accuracy and probability disagree" in short) is ("disagree" in said)
    assert page.count("| probability |") == (probability.difference is not None)


def test_comparisons_without_a_probability_count_by_their_score(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As E2E's metrics do beside an accuracy; but runs that lack the numbers reproduce nothing."""
    sharp = replace(made(0.0), by_probability=made(9.0))
    metric, lacking = made(9.0), replace(made(9.0), by_probability=replace(made(0.0), difference=None))
    assert simulated({"one": [sharp, metric]}, monkeypatch, tmp_path) == ["reproduced"]
    assert simulated({"one": [sharp, lacking]}, monkeypatch, tmp_path) == ["undecided"]
    assert simulated({"one": [sharp, made(0.0)]}, monkeypatch, tmp_path) == ["undecided"]


@pytest.mark.parametrize(
    ("table", "columns", "by_probability"),
    [
        ("table1", (), "of all columns"),
        ("table1", ("piqa",), "of one column"),
        ("table2", (), "without STS-B"),
        ("table2", ("stsb",), None),
        ("table4", ("bleu",), None),
    ],
)
def test_comparisons_of_runs_are_made_by_both_measures(
    table: str, columns: tuple[str, ...], by_probability: str | None
) -> None:
    """Every column of a row that is better by its probability, from 25 to 75 percent on half of the items."""
    planned = expand(load_experiment(table), load_profile("paper" if table == "table2" else "laptop"), [0])
    assert table != "table2" or "stsb" in planned.rows[0].columns

    def run(spec: RunSpec) -> RunState:
        gold = 0.75 if spec.method.name == "dual_lora" else 0.25
        found = result(
            dict.fromkeys(spec.benchmark.columns, "1100"), log_probabilities=(0.0, 0.0, *[log(gold)] * 2)
        )
        if "stsb" in found.scores:
            found.scores["stsb"] = found.scores["stsb"].model_copy(update={"log_probabilities": ()})
        return RunState(spec, State.DONE, found)

    states = {spec.hash: run(spec) for spec in planned.runs.values()}
    comparison = Comparison(experiment=table, better=("dual_lora*",), worse=("lora*",), columns=columns)
    claim = Claim(id="x", where="x", text="x", comparisons=(comparison,))
    ledger = Ledger(margin=1, claims=(claim,))
    priors = Priors({table: planned}, {table: states})
    compared = list(_compared(claim, comparison, ledger, planned, states, priors))
    assert compared
    for one in compared:
        assert one.difference is not None and one.difference.mean == 0
        if by_probability is None:
            assert one.by_probability is None
            continue
        assert one.by_probability is not None and one.by_probability.difference is not None
        assert one.by_probability.difference.mean == pytest.approx(25)
        assert (one.by_probability.margin, one.by_probability.column) == (one.margin, one.column)


def test_what_would_decide_a_claim_is_the_least_by_either_measure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def needed(of: Callable[[float], Spread]) -> tuple[Wanted, Wanted]:
        """By a blurred score alone, and with a probability of a quarter of its variance."""
        blurred, sharp = (replace(made(2.0, 2.0), spread=of(noise)) for noise in (16.0, 4.0))
        claims = ([blurred], [replace(blurred, by_probability=sharp)])
        found = [simulated_claims({"one": one}, monkeypatch, tmp_path)[0].wanted for one in claims]
        assert found[0] is not None and found[1] is not None
        return found[0], found[1]

    blurred, sharp = needed(lambda noise: Spread(0, noise, 0, 1, 100, 1e6))  # of seeds
    assert sharp.seeds is not None and blurred.seeds is not None and sharp.seeds < blurred.seeds
    blurred, sharp = needed(lambda noise: Spread(noise, 0, 0, 2, 100, 1e6))  # of items
    assert sharp.items is not None and blurred.items is not None and sharp.items < blurred.items


def test_one_seed_decides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    claims = {str(runs): [made(20.0, runs=runs)] for runs in (1, 2)}
    assert simulated(claims, monkeypatch, tmp_path) == ["undecided", "reproduced"]
    claims = {str(runs): [made(-20.0, runs=runs)] for runs in (1, 2)}
    assert simulated(claims, monkeypatch, tmp_path) == ["undecided", "contradicted"]


def test_glues_average_leaves_the_regression_out_and_e2e_has_none() -> None:
    assert set(Glue.headings()) - set(Glue.gold_columns()) == {"stsb"}
    assert E2E.gold_columns() == ("bleu",) and E2E.shares_items
    assert list(Commonsense.gold_columns()) == list(Commonsense.headings())


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_a_ledger_is_rarely_wrong_about_any_claim(
    truth: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Eight claims of three comparisons: at most 5 % of ledgers have a wrong verdict.

    Where no row is better, "reproduced" and "contradicted" are wrong; where one is by the margin, "equal" is.
    """
    rng = np.random.default_rng(3)
    wrong_verdicts = {"reproduced", "contradicted"} if truth == 0 else {"contradicted", "equal"}
    trials, wrong = 200, 0
    for _ in range(trials):
        claims = {}
        for name in "abcdefgh":
            drawn = [replace(mean_over_tasks([rng.normal(truth, 1, (1, 30))]), runs=3) for _ in range(3)]
            claims[name] = [Tested("m", "a", "b", None, 0.0, None, 1.0, d) for d in drawn]
        wrong += bool(wrong_verdicts & set(simulated(claims, monkeypatch, tmp_path)))
    assert wrong / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_what_would_decide_a_claim() -> None:
    """By hand: a difference of 2 on a variance of 4 a seed, shared by 100 items, is clear from n seeds on."""
    one = made(2.0, 2.0)
    (faint,) = [Tested("m", "a", "b", None, 0.0, None, 1.0, one.difference, Spread(0, 4.0, 0, 1, 100, 1e6))]
    # 2 / sqrt(4 / n) > 1.645, so n > 2.7; or two seeds with 1.35 times the items, here twice. Of one seed no
    # number of items decides.
    found = wanted([faint], LEVEL)
    assert found is not None and found.seeds == 3
    assert (found.items, found.both) == (None, (2, 200))
    # At a stricter level it takes more, and a difference that items alone make is not decided by seeds.
    strict = wanted([faint], 0.001)
    assert strict is not None and strict.seeds is not None and strict.seeds > 3
    fixed = Tested("m", "a", "b", None, 0.0, None, 1.0, one.difference, Spread(4.0, 0, 0, 2, 100, 1e6))
    assert wanted([fixed], LEVEL) == wanted([fixed, fixed], LEVEL)
    found = wanted([fixed], LEVEL)
    assert found is not None and found.seeds is None
    # 2 / sqrt(4 / m) > 1.645, so 2.7 times the items, in steps of a tenth.
    assert found.items is not None and 270 < found.items < 300
    # Seeds and items each leave a part that the other does not touch. 3.09 is the quantile of 0.001.
    mixed = Tested("m", "a", "b", None, 0.0, None, 1.0, one.difference, Spread(2.0, 0, 4.0, 2, 100, 1e6))
    found = wanted([mixed], 0.001)
    assert found is not None and (found.seeds, found.items) == (None, None)
    assert found.both is not None
    seeds, items = found.both
    assert 2 / np.sqrt(4 / seeds + 2 * 100 / items) > 3.09
    assert wanted([made(2.0)], LEVEL) is None


def test_comparisons_without_runs_are_told_beside_what_would_decide_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """2 / sqrt(4 / n) > 2.13, the quantile of the first of three corrected levels, 0.0167; so n > 4.5."""
    spread = Spread(0, 4.0, 0, 3, 100, 1e6, borrowed=1e6)
    faint = Tested("m", "a", "b", None, 0.0, None, 1.0, made(2.0, 2.0).difference, spread)
    nothing = replace(faint, difference=None, spread=None)
    for comparisons, told in (
        ([faint], "needed to decide: 5 seeds, or "),
        ([faint, nothing], "needed to decide: at least 5 seeds, or "),
        ([made(0.5), nothing], "needed to decide: runs for 1 of its 2 comparisons. (x)"),
    ):
        scored = simulated_claims({"one": comparisons}, monkeypatch, tmp_path)
        page = "\n".join(standing(scored, lambda _: []))
        assert told in page
        assert ("runs for 1 of its 2 comparisons" in page) == (nothing in comparisons)


@pytest.mark.parametrize("profile", list_profiles())
def test_every_claim_finds_its_rows_where_nothing_has_run(profile: str, tmp_path: Path) -> None:
    ledger = load_ledger()
    scored = score_claims(ledger, _plans(profile), Store(tmp_path))
    tested = {s.claim.id for s in scored if s.tested}
    assert tested == {s.claim.id for s in scored if s.claim.comparisons and not s.untouched}
    # Formulas and sizes need no run; everything else is not tested.
    counted = {s.claim.id for s in scored if s.claim.sizes}
    for s in scored:
        expected = {"by formula"} if s.claim.by_formula else {"reproduced", "contradicted"}
        assert s.verdict in (expected if s.claim.by_formula or s.claim.id in counted else {"not tested"})
    page = claims_page(ledger, scored, [load_profile(profile)])
    assert all(claim.text in page for claim in ledger.claims)


def test_a_profile_says_which_models_it_does_not_have(tmp_path: Path) -> None:
    laptop, paper = (
        {s.claim.id: s for s in score_claims(load_ledger(), _plans(profile), Store(tmp_path))}
        for profile in ("laptop", "paper")
    )
    assert "profile laptop runs smollm2-135m-instruct" in laptop["gain-llama3-70b"].untouched
    assert not any(s.untouched for s in paper.values())
    assert {t.block for t in paper["gain-llama3-70b"].tested} == {"llama3-70b"}
    assert {t.at_least for t in paper["gain-llama3-70b"].tested} == {1.9}
    # Compared with every row of the paper's block, and with no row that this project added.
    assert [t.worse for t in paper["gain-llama3-70b"].tested] == ["LoRA (r=16)", "DoRA (r=16)"]


def _rounds(five: tuple[float, ...]) -> tuple[float, ...]:
    """Fifteen, of which no two are equal: scipy's signed-rank test is exact without ties only."""
    return tuple(one + 1e-5 * place for place, one in enumerate(3 * five))


@pytest.mark.parametrize(
    ("efficient", "dropout", "verdict"),
    [
        ((1.40, 1.42, 1.41, 1.43, 1.39), (1.0, 1.1, 1.04, 1.06, 1.02), "contradicted"),  # one is enough
        ((1.01, 1.02, 1.01, 1.02, 1.01), (0.99, 1.0, 1.0, 0.99, 1.0), "reproduced"),
        ((1.01, 1.02, 1.01, 1.02, 1.01), (1.0, 1.1, 1.04, 1.06, 1.02), "undecided"),
    ],
)
def test_a_claim_about_time_is_tested_on_the_benchmark_in_all_its_readings(
    efficient: tuple[float, ...], dropout: tuple[float, ...], verdict: str, tmp_path: Path
) -> None:
    time, memory = (c for c in load_ledger().claims if c.id in ("time", "memory"))
    assert time.overhead is not None and memory.overhead is not None
    rounds = [*zip(time.overhead.ratios, (_rounds(efficient), _rounds(dropout)), strict=True)]
    rounds += [(name, (1.003,)) for name in memory.overhead.ratios]
    figures = [Measurement(name=name, at="here", ratio=Ratio(rounds=r)) for name, r in rounds]
    measured = Measured(figures=tuple(figures), points=(), environment=environment())
    write_json(speed_file(tmp_path, measured), measured)
    scored = {s.claim.id: s for s in score_claims(load_ledger(), _plans("laptop"), Store(tmp_path / "runs"))}
    assert scored["time"].verdict == verdict
    first = scored["time"].tested[0]
    for found, alternative in ((first.p_holds(), "less"), (first.p_fails(), "greater")):
        logs = np.log(_rounds(efficient)) - np.log(1.05)
        assert found == pytest.approx(stats.wilcoxon(logs, alternative=alternative).pvalue)
    told = "\n".join(standing([scored["time"]], lambda _: []))
    assert ("needed to decide: 135 rounds" in told) == (verdict == "undecided")
    # Bytes do not vary: they are counted.
    assert scored["memory"].verdict == "reproduced" and not scored["memory"].tested


@pytest.mark.parametrize(
    ("prefix", "verdict"),
    [
        ((1.05, 1.06, 1.07, 1.06, 1.05), "reproduced"),
        ((0.95, 0.94, 0.93, 0.94, 0.95), "contradicted"),
        ((1.05, 0.9, 1.2, 0.97, 1.05), "undecided"),
    ],
)
def test_a_claim_that_more_time_is_needed_is_tested_the_other_way(
    prefix: tuple[float, ...], verdict: str, tmp_path: Path
) -> None:
    ledger = load_ledger()
    (slower,) = (c for c in ledger.claims if c.id == "others-slow-inference")
    assert slower.overhead is not None
    rounds = [(1.11, 1.12, 1.13, 1.12, 1.11), (1.08, 1.07, 1.06, 1.07, 1.08), prefix]
    pairs = zip(slower.overhead.ratios, rounds, strict=True)
    figures = [Measurement(name=name, at="here", ratio=Ratio(rounds=_rounds(r))) for name, r in pairs]
    measured = Measured(figures=tuple(figures), points=(), environment=environment())
    write_json(speed_file(tmp_path, measured), measured)
    scored = score_claims(ledger, _plans("laptop"), Store(tmp_path / "runs"))
    (found,) = (s for s in scored if s.claim.id == slower.id)
    assert found.verdict == verdict
    reference = stats.wilcoxon(np.log(_rounds(prefix)), alternative="greater").pvalue
    assert found.tested[2].p_holds() == pytest.approx(reference, abs=1e-4)
    told = "\n".join(standing([found], lambda _: []))
    logs = np.log(_rounds(prefix))
    typical = np.exp(np.median((logs[:, None] + logs)[np.triu_indices(15)] / 2))  # Hodges and Lehmann's
    assert f"Prefix / plain: a forward pass {100 * (typical - 1):+.0f} ± " in told


GPU, CPU = Card(name="NVIDIA H200", memory_gib=140.0), None
ALONE = f"{environment().hardware}; no GPU's bench is among the results"


@pytest.mark.parametrize(
    ("benches", "verdict", "where"),
    [
        ({CPU: ("efficient", "dropout")}, "contradicted", ALONE),
        ({GPU: ("efficient", "dropout"), CPU: ("efficient", "dropout")}, "reproduced", "one NVIDIA H200"),
        ({GPU: ("efficient", "dropout")}, "reproduced", "one NVIDIA H200"),
        # A reading that is lacking must not make the claim easier.
        (
            {GPU: ("efficient",), CPU: ("efficient", "dropout")},
            "contradicted",
            f"{environment().hardware}; the GPU's bench lacks it",
        ),
        ({}, "not tested", ""),
    ],
)
def test_a_gpus_bench_decides_where_there_is_one_and_the_verdict_says_so(
    benches: dict[Card | None, tuple[str, ...]], verdict: str, where: str, tmp_path: Path
) -> None:
    names = {
        "efficient": "Dual LoRA / LoRA: a training step",
        "dropout": "Dual LoRA / LoRA, dropout 0.05: a training step",
    }
    for card, readings in benches.items():
        rounds = 3 * ((1.01, 1.02, 1.01, 1.02, 1.01) if card else (1.40, 1.42, 1.41, 1.43, 1.39))
        figures = [Measurement(name=names[r], at="here", ratio=Ratio(rounds=rounds)) for r in readings]
        measured = Measured(figures=tuple(figures), points=(), environment=environment(), card=card)
        write_json(speed_file(tmp_path, measured), measured)
    ledger = load_ledger()
    scored = score_claims(ledger, _plans("laptop"), Store(tmp_path / "runs"))
    time = next(s for s in scored if s.claim.id == "time")
    assert (time.verdict, time.where) == (verdict, where)
    page = claims_page(ledger, scored, [load_profile("laptop")])
    told = "\n".join(standing([time], lambda _: []))
    if benches:
        assert f"; measured on {where})" in page
        assert f"15 rounds of `make bench` on {where}." in told
    else:
        assert "not tested: not measured by `make bench`" in page


def test_of_two_processors_that_with_the_most_rounds_decides(tmp_path: Path) -> None:
    ledger = load_ledger()
    (time,) = (claim for claim in ledger.claims if claim.id == "time")
    assert time.overhead is not None
    for hardware, five, rounds in (("2 threads of A", (1.4,) * 5, 14), ("2 threads of Z", (1.0,) * 5, 7)):
        ratio = Ratio(rounds=_rounds(five)[:rounds])
        figures = [Measurement(name=name, at="here", ratio=ratio) for name in time.overhead.ratios]
        where = environment().model_copy(update={"hardware": hardware})
        measured = Measured(figures=tuple(figures), points=(), environment=where)
        write_json(speed_file(tmp_path, measured), measured)
    assert [one.hardware for one in usable_speeds(tmp_path)] == ["2 threads of A", "2 threads of Z"]
    (found,) = (
        s for s in score_claims(ledger, _plans("laptop"), Store(tmp_path / "runs")) if s.claim == time
    )
    assert found.verdict == "contradicted" and found.where.startswith("2 threads of A; ")


def test_every_ratio_means_every_ratio(tmp_path: Path) -> None:
    scored = {s.claim.id: s for s in score_claims(load_ledger(), _plans("paper"), Store(tmp_path))}
    lines = {"lora": 2, "dora": 2, "hira": 1}
    for method, ranks in lines.items():
        assert len(scored[f"ratios-over-{method}"].tested) == 15 * ranks


def test_a_pattern_without_rows_is_one_line(tmp_path: Path) -> None:
    ledger = load_ledger()
    (claim,) = [claim for claim in ledger.claims if claim.id == "beats-lora"]
    comparison = claim.comparisons[0].model_copy(update={"worse": ("lora9",)})
    broken = claim.model_copy(update={"comparisons": (comparison,)})
    with pytest.raises(
        ConfigError, match=r"beats-lora: no rows of table1 under profile laptop match .* lora9"
    ):
        score_claims(ledger.model_copy(update={"claims": (broken,)}), _plans("laptop"), Store(tmp_path))


COMPARISON = {"experiment": "table1", "better": ["a"], "worse": ["b"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unmeasured": "because"}, "exactly one of comparisons"),
        ({"comparisons": []}, "exactly one of comparisons"),
        (
            {
                "comparisons": [
                    {"experiment": "t", "better": ["a"], "worse": ["b"], "at_least": 3, "at_most": 2}
                ]
            },
            "at_most",
        ),
    ],
)
def test_a_claim_that_says_nothing_or_two_things_is_refused(change: dict[str, object], message: str) -> None:
    content = {"id": "c", "where": "here", "text": "x", "comparisons": [COMPARISON]} | change
    with pytest.raises(ConfigError, match=message):
        parse(content, Claim, "claims.yaml")
