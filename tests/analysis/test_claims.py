"""The claims ledger: its tests on simulated runs whose truth is known, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from repro.analysis.claims import (
    Claim,
    Ledger,
    Tested,
    load_ledger,
    paired_difference,
    score_claims,
    seeds_to_settle,
)
from repro.analysis.statistics import Estimate, holm, mean_over_tasks
from repro.benchmarks.base import TaskScore
from repro.config import ConfigError
from repro.report.claims import claims_page
from repro.study.environment import environment
from repro.study.experiment import Plan, load_experiment, plan
from repro.study.profile import list_profiles, load_profile
from repro.study.result import Result
from repro.study.speed import Figure, Measured, Ratio, speed_file
from repro.study.store import Store, write_json


def _plans(profile: str) -> dict[str, Plan]:
    return {name: plan(load_experiment(name), load_profile(profile)) for name in load_ledger().experiments}


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


def test_without_spread_nothing_is_rejected() -> None:
    for estimate in (Estimate(5.0, None, 1), mean_over_tasks([np.zeros((1, 9))])):
        assert estimate.p_below(0) == estimate.p_above(1) == 1


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 2.0), (5, 2.0)])
def test_a_true_null_is_rejected_no_more_often_than_stated(seeds: int, seed_sd: float) -> None:
    """Right or wrong differs by chance alone, and by the luck of a seed: 5 %, over 600 trials."""
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


def result(outcomes: dict[str, str], items: str = "same") -> Result:
    """A finished run with these outcomes and nothing else of interest."""
    scores = {
        task: TaskScore(
            metric="accuracy", value=1.0, items=len(digits), outcomes=digits, unparsed=0, constant=False
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


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        # (no better, by the margin) of each comparison, beside a claim whose p-values are 1 and 1.
        (
            [(0.012, 1.0), (0.001, 1.0)],
            "reproduced",
        ),  # 4 * 0.012 is below 5 %: the largest, not corrected within
        ([(0.013, 1.0), (0.001, 1.0)], "undecided"),
        ([(0.001, 1.0), (1.0, 0.006)], "contradicted"),  # 4 * 2 * 0.006: any one is enough, of two
        ([(0.001, 1.0), (1.0, 0.007)], "undecided"),
    ],
)
def test_a_claim_needs_all_of_its_comparisons_and_falls_with_one(
    ps: list[tuple[float, float]], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = {
        "one": [Tested("m", "a", "b", None, p, q, 0) for p, q in ps],
        "other": [Tested("m", "a", "b", None, 1.0, 1.0, 0)],
    }
    monkeypatch.setattr("repro.analysis.claims._compared", lambda claim, *_: made[claim.id])
    claims = tuple(Claim(id=name, text="x", where="x", experiment="table1") for name in made)
    unmeasured = Claim(id="none", text="x", where="x", unmeasured="because")
    ledger = Ledger(margin=1, claims=(unmeasured, *claims))
    scored = score_claims(ledger, _plans("laptop"), Store(tmp_path))
    assert [s.verdict for s in scored] == ["undecided", expected, "undecided"]
    assert scored[0].tested == () and (scored[0].p_holds, scored[0].p_fails) == (1, 1)


def test_a_ledger_of_true_nulls_is_rarely_wrong_about_any_claim(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Eight claims of three comparisons, no difference anywhere: a wrong verdict in 5 % of the ledgers."""
    rng = np.random.default_rng(3)
    claims = tuple(Claim(id=str(i), text="x", where="x", experiment="table1") for i in range(8))

    def compared(*_: object) -> list[Tested]:
        differences = [mean_over_tasks([rng.normal(0, 1, (1, 30))]) for _ in range(3)]
        return [Tested("m", "a", "b", d, d.p_below(0), d.p_above(0), 0) for d in differences]

    monkeypatch.setattr("repro.analysis.claims._compared", compared)
    trials, plans, store = 300, _plans("laptop"), Store(tmp_path)
    wrong = sum(
        any(s.verdict != "undecided" for s in score_claims(Ledger(margin=1, claims=claims), plans, store))
        for _ in range(trials)
    )
    assert 0 < wrong / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_more_seeds_settle_a_difference_that_is_there() -> None:
    clear = mean_over_tasks([np.random.default_rng(0).normal(3, 20, (3, 200))])
    wanted = seeds_to_settle(clear, margin=1)
    assert wanted is None or wanted > 3
    faint = Estimate(mean=2.0, half_width=4.0, runs=2, error=2.0, freedom=30)
    # By hand: 2 / (2 sqrt(2 / n)) must exceed Student's 1.697, so n > 2 * 1.697^2 = 5.76.
    assert seeds_to_settle(faint, margin=1) == 6
    assert seeds_to_settle(Estimate(0.5, None, 1), margin=1) is None
    assert seeds_to_settle(Estimate(0.5, 90.0, 1, error=45.0, freedom=30), margin=1) is None


@pytest.mark.parametrize("profile", list_profiles())
def test_every_claim_finds_its_rows_and_says_undecided_where_nothing_has_run(
    profile: str, tmp_path: Path
) -> None:
    ledger = load_ledger()
    scored = score_claims(ledger, _plans(profile), Store(tmp_path))
    assert {s.claim.id for s in scored if s.tested} == {c.id for c in ledger.claims if not c.unmeasured}
    assert {s.verdict for s in scored} == {"undecided"}
    assert all(c.experiment or c.overhead or c.unmeasured for c in ledger.claims)
    page = claims_page(ledger, scored, load_profile(profile))
    assert all(claim.text in page for claim in ledger.claims)


@pytest.mark.parametrize(
    ("efficient", "dropout", "verdict"),
    [
        (
            (1.40, 1.42, 1.41, 1.43, 1.39),
            (1.0, 1.1, 1.04, 1.06, 1.02),
            "contradicted",
        ),  # one reading is enough
        ((1.01, 1.02, 1.01, 1.02, 1.01), (0.99, 1.0, 1.0, 0.99, 1.0), "reproduced"),
        ((1.01, 1.02, 1.01, 1.02, 1.01), (1.0, 1.1, 1.04, 1.06, 1.02), "undecided"),
    ],
)
def test_a_claim_about_time_is_tested_on_the_benchmark_in_all_its_readings(
    efficient: tuple[float, ...], dropout: tuple[float, ...], verdict: str, tmp_path: Path
) -> None:
    ledger = load_ledger()
    (claim,) = [claim for claim in ledger.claims if claim.overhead]
    assert claim.overhead is not None
    figures = [
        Figure(name=name, at="here", ratio=Ratio(rounds=rounds))
        for name, rounds in zip(claim.overhead.ratios, (efficient, dropout), strict=True)
    ]
    measured = Measured(figures=tuple(figures), points=(), environment=environment())
    write_json(speed_file(tmp_path), measured)
    (scored,) = [
        s for s in score_claims(ledger, _plans("laptop"), Store(tmp_path / "runs")) if s.claim.id == claim.id
    ]
    assert scored.verdict == verdict
    first = scored.tested[0]
    reference = stats.ttest_1samp(100 * (np.array(efficient) - 1), 5, alternative="less").pvalue
    assert first.p_no_better == pytest.approx(reference)
    assert first.p_by_margin == pytest.approx(1 - reference)


def test_the_benchmark_measures_what_the_claim_about_time_names() -> None:
    from repro.bench.step import figures

    (claim,) = [claim for claim in load_ledger().claims if claim.overhead]
    assert claim.overhead is not None
    assert {*claim.overhead.ratios} <= {figure.name for figure in figures(small=True)}


def test_every_ratio_means_every_ratio(tmp_path: Path) -> None:
    scored = score_claims(load_ledger(), _plans("paper"), Store(tmp_path))
    assert [len(s.tested) for s in scored if s.claim.id == "every-ratio"] == [15 * 2]


def test_a_pattern_without_rows_is_one_line(tmp_path: Path) -> None:
    ledger = load_ledger()
    broken = ledger.claims[0].model_copy(
        update={"comparisons": (ledger.claims[0].comparisons[0].model_copy(update={"worse": ("lora9",)}),)}
    )
    with pytest.raises(
        ConfigError, match=r"beats-lora: no rows of table1 under profile laptop match .* lora9"
    ):
        score_claims(ledger.model_copy(update={"claims": (broken,)}), _plans("laptop"), Store(tmp_path))
