"""GLUE's metrics against torchmetrics, and what becomes of predictions that are no numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_matthews_corrcoef
from torchmetrics.functional.regression import pearson_corrcoef

from repro.benchmarks.glue.scoring import score
from repro.training.data import DataError


def predictions(task: str, logits: np.ndarray, gold: np.ndarray, part: str = "") -> list[dict]:
    return [
        {"task": task, "id": f"{task}/{i}", "gold": g, "logits": list(row)} | ({"part": part} if part else {})
        for i, (row, g) in enumerate(zip(logits.tolist(), gold.tolist(), strict=True))
    ]


def test_matthews_is_torchmetrics() -> None:
    generator = np.random.default_rng(0)
    gold = (generator.random(200) < 0.7).astype(float)
    logits = generator.normal(size=(200, 2)) + np.eye(2)[gold.astype(int)]
    found = score("cola", predictions("cola", logits, gold))
    answers = torch.tensor(logits.argmax(1))
    assert found.metric == "Matthews correlation"
    assert found.value == pytest.approx(
        100 * binary_matthews_corrcoef(answers, torch.tensor(gold).long()).item(), abs=1e-4
    )
    assert np.mean(found.outcomes) == pytest.approx(found.value, abs=1e-3)


def test_pearson_is_torchmetrics() -> None:
    generator = np.random.default_rng(1)
    gold = 5 * generator.random(150)
    logits = (gold + generator.normal(size=150))[:, None]
    found = score("stsb", predictions("stsb", logits, gold))
    expected = pearson_corrcoef(torch.tensor(logits[:, 0]), torch.tensor(gold)).item()
    assert (found.metric, found.items) == ("Pearson correlation", 150)
    assert found.value == pytest.approx(100 * expected)


def test_mnli_pools_its_two_sets_and_says_so() -> None:
    right, wrong = np.array([[3.0, 0, 0]]), np.array([[0.0, 0, 3]])
    matched = predictions("mnli", np.concatenate([right] * 3), np.zeros(3), "matched")
    mismatched = predictions("mnli", wrong, np.zeros(1), "mismatched")
    both = score("mnli", matched + mismatched)
    assert (both.metric, both.value) == ("accuracy (matched and mismatched pooled)", 75)
    assert (both.outcomes, score("mnli", matched).metric) == ("1110", "accuracy (matched)")


def test_one_answer_to_everything_is_marked() -> None:
    gold = np.array([0.0, 1, 1])
    found = score("mrpc", predictions("mrpc", np.tile([0.0, 1.0], (3, 1)), gold))
    assert found.constant and found.value == pytest.approx(200 / 3)
    constant = score("cola", predictions("cola", np.tile([0.0, 1.0], (3, 1)), gold))
    assert constant.constant and constant.value == 0


def test_what_is_no_number_is_wrong_and_counted() -> None:
    logits = np.array([[0.0, 1.0], [math.nan, 0.0]])
    found = score("sst2", predictions("sst2", logits, np.array([1.0, 1.0])))
    assert (found.value, found.unparsed, found.outcomes) == (50, 0.5, "10")


@pytest.mark.parametrize(("task", "outputs"), [("stsb", 1), ("cola", 2), ("mrpc", 2)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_helps(task: str, outputs: int, bad: float) -> None:
    generator = np.random.default_rng(2)
    for scale in (0.01, 1.0, 100.0):
        gold = np.array([0.0, 0, 1, 1, 0, 1, 0, 1])
        logits = scale * (
            generator.normal(size=(8, outputs)) * 0.1 + np.eye(2)[gold.astype(int)][:, -outputs:]
        )
        whole = score(task, predictions(task, logits, gold)).value
        for item in range(len(gold)):
            broken = logits.copy()
            broken[item] = bad
            found = score(task, predictions(task, broken, gold))
            assert found.value < whole and found.unparsed == 1 / 8
        broken[gold == 0] = bad
        assert score(task, predictions(task, broken, gold)).value <= 50


def test_nothing_readable_is_worth_nothing() -> None:
    for task, outputs in (("stsb", 1), ("sst2", 2)):
        found = score(task, predictions(task, np.full((3, outputs), math.nan), np.array([0.0, 1, 1])))
        assert (found.value, found.unparsed) == (0, 1)


def test_the_correlation_of_one_item_is_zero() -> None:
    assert score("stsb", predictions("stsb", np.array([[1.0]]), np.array([1.0]))).value == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None}, "prediction 1 of sst2: logits: Input should be a valid list .got None"),
        ({"logits": ["1", 0]}, "logits.0: Input should be a valid number .got '1'"),
        ({"logits": [True, 0]}, "logits.0: Input should be a valid number .got True"),
        ({"logits": [1.0]}, "has 1 logits for 2 outputs"),
        ({"logits": []}, "has 0 logits for 2 outputs"),
        ({"gold": 2.0}, "has the label 2.0, sst2 wants one of 0 to 1"),
        ({"gold": math.nan}, "has the label nan"),
        ({"gold": None}, "gold: Input should be a valid number"),
        ({"task": "rte"}, "is of 'rte'"),
        ({"id": 3}, "id: Input should be a valid string"),
    ],
)
def test_malformed_predictions_are_refused(changes: dict, message: str) -> None:
    good = predictions("sst2", np.array([[0.0, 1.0]]), np.array([1.0]))[0]
    with pytest.raises(DataError, match=message) as caught:
        score("sst2", [good | changes])
    assert "\n" not in str(caught.value)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no predictions of rte"):
        score("rte", [])
