"""What a run answered to each item, with its predictions and without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from repro.analysis.frames import compared_items
from repro.analysis.items import Answered, TestSets, compared, differ, run_items
from repro.benchmarks.base import Answer, Item, parse_benchmark
from repro.config import ConfigError, parse
from repro.paths import REFERENCE
from repro.plans.spec import RunSpec
from repro.runs.rerun import read_run
from repro.runs.result import Result
from repro.runs.store import Store

Run = tuple[RunSpec, Result]


@pytest.fixture(scope="module")
def sets() -> TestSets:
    return TestSets()


@pytest.fixture(scope="module")
def run() -> Run:
    """A committed run of Table 1, laptop, whose predictions are not stored."""
    return read_run(next(REFERENCE.glob("runs/commonsense--*--lora--seed0--c7bf270df526/result.json")))


def predicted(run: Run, choices: Sequence[int | None]) -> list[dict[str, Any]]:
    """Predictions of BoolQ's items in the order of their ids; None stands for an answer that is no number."""
    records = sorted((r for r in run[0].benchmark.test_records() if r.task == "boolq"), key=lambda r: r.id)
    return [
        {
            "task": "boolq",
            "id": record.id,
            "gold": record.gold,
            "log_likelihoods": [float("nan")] * 2 if c is None else [-4.0 - (c == 1), -4.0 - (c == 0)],
            "normalisers": [2.0, 2.0],
        }
        for record, c in zip(records, choices, strict=True)
    ]


def test_without_predictions_an_item_has_its_text_and_what_the_outcome_implies(
    run: Run, sets: TestSets
) -> None:
    spec, result = run
    found = run_items(spec, result, Store(REFERENCE / "runs"), sets)
    assert list(found.parts) == list(result.scores) and len(found.holes) == 1
    texts = {record.id: record for record in spec.benchmark.test_records()}
    for task, items in found.parts.items():
        assert [a.item.id for a in items] == sorted(a.item.id for a in items)
        assert "".join(str(int(bool(a.right))) for a in items) == result.scores[task].outcomes
        for item, right, answer in items:
            record = texts[item.id]
            assert (item.question, item.options, item.gold) == (record.question, record.options, record.gold)
            if right:
                assert answer is not None and answer.choice == record.gold
            elif len(record.options) == 2:
                assert answer is not None and answer.choice == 1 - record.gold
            else:
                assert answer is None


def test_a_wrong_answer_of_two_options_is_not_implied_where_some_cannot_be_read(
    run: Run, sets: TestSets
) -> None:
    spec, result = run
    score = result.scores["boolq"].model_copy(update={"unparsed": 0.1})
    result = result.model_copy(update={"scores": result.scores | {"boolq": score}})
    items = run_items(spec, result, Store(REFERENCE / "runs"), sets).parts["boolq"]
    wrong = [answered for answered in items if not answered.right]
    assert wrong and all(answered.answer is None for answered in wrong)


def test_predictions_give_answers_and_scores(run: Run, sets: TestSets, tmp_path: Path) -> None:
    spec, result = run
    store = Store(tmp_path)
    choices = [None, *[i % 2 for i in range(63)]]
    store.directory(spec).mkdir()
    store.write_predictions(spec, predicted(run, choices))
    found = run_items(spec, result, store, sets)
    boolq = found.parts["boolq"]
    assert found.holes == () and boolq[0].answer is not None and not boolq[0].answer.read
    assert [a.answer.choice for a in boolq if a.answer] == choices
    assert boolq[1].answer == Answer(0, (-2.0, -2.5)) and boolq[2].answer == Answer(1, (-2.5, -2.0))


def test_a_damaged_prediction_is_a_hole(run: Run, sets: TestSets, tmp_path: Path) -> None:
    spec, result = run
    store = Store(tmp_path)
    store.directory(spec).mkdir()
    store.write_predictions(spec, [{"id": "boolq/1", "task": "boolq", "gold": "no number"}])
    (hole,) = run_items(spec, result, store, sets).holes
    assert hole.startswith("no answers: prediction 1 of boolq")


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({"data_fingerprints": {"test": "other"}}, "not those of the run"),
        ({"source": "hub"}, "on the hub"),
    ],
)
def test_texts_that_are_not_those_of_the_run_are_a_hole(
    run: Run, update: dict[str, Any], reason: str
) -> None:
    spec, result = run
    if "source" in update:
        spec = spec.model_copy(update={"benchmark": spec.benchmark.model_copy(update=update)})
    else:
        result = result.model_copy(update=update)
    found = run_items(spec, result, Store(REFERENCE / "runs"), TestSets())
    assert reason in found.holes[0]
    first = found.parts["boolq"][0]
    assert first.item == Item("boolq 1", "boolq", "") and first.answer is None
    assert "".join(str(int(bool(a.right))) for a in found.parts["boolq"]) == result.scores["boolq"].outcomes


ITEM = Item("t/1", "t", "?", ("a", "b", "c"), 0)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Answered(ITEM, False, Answer(1)), Answered(ITEM, False, Answer(2)), True),
        (Answered(ITEM, False, Answer(1)), Answered(ITEM, False, Answer(1)), False),
        (Answered(ITEM, False, Answer(None, read=False)), Answered(ITEM, False, Answer(1)), True),
        (Answered(ITEM, True, Answer(0)), Answered(ITEM, False, None), True),
        (Answered(ITEM, False, None), Answered(ITEM, False, Answer(1)), False),
        (Answered(ITEM, None, None), Answered(ITEM, False, None), None),
        (
            Answered(ITEM._replace(options=()), None, Answer(text="a")),
            Answered(ITEM._replace(options=()), None, Answer(text="b")),
            True,
        ),
    ],
)
def test_two_answers_differ_as_far_as_is_known(one: Answered, other: Answered, expected: bool | None) -> None:
    assert differ(one, other) is expected


def test_runs_on_different_items_are_not_compared(run: Run, sets: TestSets) -> None:
    store = Store(REFERENCE / "runs")
    swept = next(
        read_run(path)
        for path in sorted(REFERENCE.glob("runs/commonsense--*--lora--seed0--*/result.json"))
        if read_run(path)[0].benchmark != run[0].benchmark
    )
    own = run_items(*run, store, sets)
    with pytest.raises(ConfigError, match="tested on different items"):
        list(compared(own, run_items(*swept, store, sets)))
    # Items that are only numbered look alike.
    unknown = run[1].model_copy(update={"data_fingerprints": {"test": "other"}})
    with pytest.raises(ConfigError, match="tested on different items"):
        list(compared(own, run_items(run[0], unknown, store, sets)))
    assert len(list(compared(own, own))) == 512


def test_glue_answers_by_its_largest_logit() -> None:
    glue = parse_benchmark({"family": "glue", "tasks": ["rte"], "source": "package", "test_size": 4})
    items = [glue.item(record) for record in glue.test_records()]
    assert len(items) == 4 and items[0].options == ("entailment", "not entailment")
    assert {item.gold for item in items} <= {0, 1} and all("\n" in item.question for item in items)
    prediction = {"task": "rte", "id": "rte/1", "gold": 1.0, "logits": [0.5, 2.0]}
    assert glue.answer(prediction) == Answer(1, (0.5, 2.0))
    assert not glue.answer(prediction | {"logits": [float("nan"), 2.0]}).read
    stsb = parse_benchmark({"family": "glue", "tasks": ["stsb"], "source": "local"})
    told = stsb.answer({"task": "stsb", "id": "stsb/1", "gold": 3.2, "logits": [2.5]})
    assert told == Answer(text="2.50")


def test_e2e_shows_its_references_and_the_text() -> None:
    e2e = parse_benchmark({"family": "e2e", "source": "synthetic", "test_size": 2})
    records = e2e.test_records()
    item = e2e.item(records[0])
    assert (item.question, item.wanted, item.options) == (records[0].prompt, records[0].references, ())
    prediction = {"id": item.id, "prompt": item.question, "gold": list(item.wanted), "text": "A pub."}
    assert e2e.answer(prediction) == Answer(text="A pub.")


def test_a_frame_of_two_runs_has_both_answers_beside_the_question(run: Run, tmp_path: Path) -> None:
    spec, result = run
    other = parse(spec.model_dump(mode="json") | {"seed": 7}, RunSpec, "spec")
    store = Store(tmp_path)
    for one, choices in ((spec, [0] * 64), (other, [None, 0, *[1] * 62])):
        store.directory(one).mkdir()
        store.write_predictions(one, predicted(run, choices))
        store.write_result(one, _of(result, one))
    frame = compared_items(spec, other, store)
    boolq = frame[frame["task"] == "boolq"].reset_index()
    assert len(frame) == 512 and frame.attrs["holes"] == []
    assert boolq["one"].tolist() == ["true"] * 64
    assert boolq["other"].isna().tolist() == [True, *[False] * 63]
    assert boolq["other"].tolist()[1:] == ["true", *["false"] * 62]
    assert boolq["differ"].tolist() == [True, False, *[True] * 62]
    assert boolq["other's scores"][1] == (-2.0, -2.5)
    assert set(boolq["right"]) == {"true", "false"} and all(boolq["question"])


def _of(result: Result, spec: RunSpec) -> Result:
    return result.model_copy(
        update={"hash": spec.hash, "slug": spec.slug, "spec": spec.model_dump(mode="json")}
    )
