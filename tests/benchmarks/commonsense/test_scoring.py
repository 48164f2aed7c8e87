"""Scores of stored predictions, against figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from repro.benchmarks.commonsense.scoring import score
from repro.training.data import DataError


def _generated(text: str, gold: int, task: str = "piqa") -> dict[str, Any]:
    return {"task": task, "id": f"{task}/{text}", "gold": gold, "text": text}


def _cloze(log_likelihoods: list[float], normalisers: list[float], gold: int) -> dict[str, Any]:
    return {
        "task": "piqa",
        "id": "piqa/x",
        "gold": gold,
        "log_likelihoods": log_likelihoods,
        "normalisers": normalisers,
    }


def test_generated_texts_are_read_and_unread_ones_counted() -> None:
    texts = ["the correct answer is solution1", "solution2 ", "no idea", "either solution1"]
    result = score("piqa", [_generated(text, gold) for text, gold in zip(texts, [0, 0, 1, 0], strict=True)])
    assert result.metric == "accuracy (generate)"
    assert (result.outcomes, result.value, result.items) == ("1001", 50.0, 4)
    assert (result.unparsed, result.constant) == (0.25, False)


def test_another_reading_scores_the_same_predictions_anew() -> None:
    predictions = [_generated("the correct answer is solution1", 0), _generated("either solution1", 0)]
    strict = score("piqa", predictions, reading="strict")
    assert (strict.outcomes, strict.unparsed) == ("10", 0.5)
    assert strict.metric == "accuracy (generate, strict reading)"


def test_cloze_takes_the_largest_normalised_likelihood() -> None:
    # -12/6 = -2 beats -9/3 = -3, though -9 is the larger sum; with equal normalisers the sum decides.
    predictions = [_cloze([-12.0, -9.0], [6.0, 3.0], gold=0), _cloze([-12.0, -9.0], [1.0, 1.0], gold=0)]
    result = score("piqa", predictions)
    assert result.metric == "accuracy (cloze)"
    assert (result.outcomes, result.unparsed) == ("10", 0.0)


def test_a_nan_likelihood_is_no_answer() -> None:
    result = score(
        "piqa", [_cloze([math.nan, -1.0], [1.0, 1.0], 1), _cloze([-math.inf, -1.0], [1.0, 1.0], 1)]
    )
    assert (result.outcomes, result.unparsed) == ("01", 0.5)


@pytest.mark.parametrize(
    ("texts", "golds", "constant"),
    [
        (["solution1", "solution1"], [0, 1], True),
        (["?", "!"], [0, 1], True),  # never an answer
        (["solution1", "solution2"], [0, 0], False),
        (["solution1", "solution1"], [0, 0], False),  # always right
    ],
)
def test_one_answer_to_everything_is_flagged(texts: list[str], golds: list[int], constant: bool) -> None:
    result = score("piqa", [_generated(text, gold) for text, gold in zip(texts, golds, strict=True)])
    assert result.constant is constant


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "no predictions of piqa to score"),
        ([_cloze([], [], 0)], "prediction 'piqa/x': gold 0 is none of its 0 options"),
        ([_cloze([-1.0, -2.0], [1.0, 1.0], 2)], "prediction 'piqa/x': gold 2 is none of its 2 options"),
        ([_cloze([-1.0, -2.0], [1.0], 0)], "prediction 'piqa/x': 1 normalisers for 2 options"),
        ([_generated("solution1", -1)], "prediction 'piqa/solution1': gold -1 is none of its 2 options"),
        ([_generated("true", 0, "boolq")], "prediction 1 of piqa, 'boolq/true', is of 'boolq'"),
        ([_cloze([-1.0, -2.0], [1.0, 0.0], 0)], "normalisers.1: Input should be greater than 0"),
        ([_cloze([-1.0, -2.0], [1.0, 1.0], True)], "gold: Input should be a valid integer .got True"),
        ([_generated("solution1", 0) | {"text": 3}], "text: Input should be a valid string .got 3"),
        ([{"task": "piqa", "id": "piqa/x"}], "gold: Field required"),
        ([["piqa"]], "prediction 1 of piqa: it: Input should be a valid dictionary"),
    ],
)
def test_bad_predictions_are_refused(predictions: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score("piqa", predictions)
