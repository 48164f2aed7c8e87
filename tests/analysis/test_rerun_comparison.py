"""A rerun must be bit-identical on the same hardware and versions, and within tolerance elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repro.analysis.rerun_comparison import compare
from repro.paths import REFERENCE
from repro.report.rerun import describe_rerun
from repro.runs.rerun import read_run
from repro.runs.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    """A committed run of Table 1, laptop, of 64 items a task and of the first scorer."""
    return read_run(next(REFERENCE.glob("runs/commonsense--*--lora--seed0--287d1399245e/result.json")))[1]


def _changed(result: Result, part: str, **update: Any) -> Result:
    return result.model_copy(update={part: getattr(result, part).model_copy(update=update)})


def _with_losses(result: Result, *factors: float) -> Result:
    first = [loss * factor for loss, factor in zip(result.training.losses, factors, strict=False)]
    return _changed(result, "training", losses=(*first, *result.training.losses[len(first) :]))


def _with_turned(result: Result, column: str, count: int) -> Result:
    """The first `count` right answers wrong."""
    score = result.scores[column]
    assert isinstance(score.outcomes, str)
    outcomes = score.outcomes.replace("1", "0", count)
    value = 100 * outcomes.count("1") / score.items
    return result.model_copy(
        update={
            "scores": result.scores
            | {column: score.model_copy(update={"outcomes": outcomes, "value": value})}
        }
    )


def test_the_same_is_identical(result: Result) -> None:
    rerun = compare(result, result)
    assert rerun.identical and rerun.within_tolerance
    assert "identical" in describe_rerun(rerun)


def test_the_last_bit_of_a_loss_needs_another_machine_or_version(result: Result) -> None:
    other = _with_losses(result, 1 + 1e-7)
    assert not compare(result, other).within_tolerance
    moved = compare(result, _changed(other, "environment", hardware="another"))
    assert moved.within_tolerance and not moved.identical
    assert moved.first_loss == pytest.approx(1e-7, rel=1e-3)
    assert "environments differ: hardware" in describe_rerun(moved)
    recompiled = compare(result, _changed(other, "training", kernel="c"))
    assert recompiled.within_tolerance
    assert "environments differ: kernel: None in the file, c in the rerun" in describe_rerun(recompiled)


@pytest.mark.parametrize(("factors", "accepted"), [((1 + 2e-4,), False), ((1.0, 1.1), True)])
def test_elsewhere_the_first_loss_is_judged_and_later_ones_are_told(
    factors: tuple[float, ...], accepted: bool, result: Result
) -> None:
    other = _changed(_with_losses(result, *factors), "environment", threads=99)
    rerun = compare(result, other)
    assert rerun.within_tolerance is accepted
    assert rerun.largest_loss == pytest.approx(max(factors) - 1, rel=1e-3)


@pytest.mark.parametrize(("count", "accepted"), [(3, True), (5, False)])
def test_elsewhere_a_score_may_move_by_half_of_its_interval(
    count: int, accepted: bool, result: Result
) -> None:
    """Student's 95 % interval of 64 rights and wrongs is 12 points: half of it is 3 items of 1.6 points."""
    other = _changed(_with_turned(result, "boolq", count), "environment", threads=99)
    rerun = compare(result, other)
    assert rerun.within_tolerance is accepted
    assert {c.column: c.changed for c in rerun.columns if c.changed} == {"boolq": count}


def _with_probabilities(result: Result, value: float) -> Result:
    scores = {
        column: score.model_copy(
            update={"log_probabilities": tuple(value - 0.1 * (i % 9) for i in range(score.items))}
        )
        for column, score in result.scores.items()
    }
    return _changed(result.model_copy(update={"scores": scores}), "evaluation", scorer_version=2)


def test_a_newer_scorer_gives_the_same_scores_and_more(result: Result) -> None:
    rerun = compare(result, _with_probabilities(result, -1.0))
    assert rerun.identical and rerun.within_tolerance
    assert "environments differ: scorer version: 1 in the file, 2 in the rerun" in describe_rerun(rerun)


def test_probabilities_are_compared_where_both_have_them(result: Result) -> None:
    one = _with_probabilities(result, -1.0)
    assert compare(one, one).identical
    # The last decimal needs another machine, as a loss does; a tenth of the value is too much anywhere.
    near, far = (_with_probabilities(result, value) for value in (-1.001, -1.2))
    assert not compare(one, near).within_tolerance
    moved = compare(one, _changed(near, "environment", threads=99))
    assert moved.within_tolerance and not moved.identical
    boolq = next(c for c in moved.columns if c.column == "boolq, probability")
    assert boolq.changed == boolq.items == result.scores["boolq"].items
    assert boolq.before is not None and boolq.after is not None
    assert boolq.after == pytest.approx(boolq.before * np.exp(-0.001))
    assert not compare(one, _changed(far, "environment", threads=99)).within_tolerance


def test_other_data_is_not_excused_by_another_machine(result: Result) -> None:
    other = result.model_copy(update={"data_fingerprints": result.data_fingerprints | {"test": "other"}})
    rerun = compare(result, _changed(other, "environment", threads=99))
    assert not rerun.within_tolerance
    assert "must always be equal: data, test" in describe_rerun(rerun)


def test_fewer_steps_and_a_missing_column_are_not_the_same(result: Result) -> None:
    shorter = _changed(result, "training", losses=result.training.losses[:-1])
    assert not compare(result, shorter).identical
    fewer = result.model_copy(update={"scores": {k: v for k, v in result.scores.items() if k != "boolq"}})
    assert not compare(result, _changed(fewer, "environment", threads=99)).within_tolerance
