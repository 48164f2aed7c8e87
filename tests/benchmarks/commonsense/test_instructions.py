"""Rendering gives LLM-Adapters' own files: proved by their git blob ids, over all 22,419 test items."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.benchmarks.commonsense.instructions import (
    from_rows,
    git_blob_id,
    parse_instruction,
    render_instruction,
    render_upstream_file,
    to_row,
)
from repro.benchmarks.commonsense.records import TASKS, Record, build_records
from repro.benchmarks.hub_sets import hub_size
from repro.training.data import DataError

# dataset/<task>/test.json of AGI-Edgerunners/LLM-Adapters.
UPSTREAM_BLOBS = {
    "boolq": "6d7edb0a8e8a6566b546ccf0d98d24e48db3fdf3",
    "piqa": "f7a1c260692ef31796d4763cb6334f316a754fed",
    "social_i_qa": "eadf221799ca394367b144c0f86ee0436db409d2",
    "hellaswag": "183c4920415f83ba4b793c4873a33e7e10bd1be5",
    "winogrande": "21257263593dd4d00546e1918c88ca0f357b08ad",
    "ARC-Easy": "6c0d30aaedaeca148df6bcd7aaacf7c31e6ad70f",
    "ARC-Challenge": "9540685439144200b5a7e48dab9ca4655be2af09",
    "openbookqa": "a6e69676104bcb77237388c3b5a3f0dcbb81d1e2",
}

# One item of each shape of instruction, written out.
EXAMPLES = [
    (
        "boolq",
        ("is water wet", ("true", "false"), 0),
        "Please answer the following question with true or false, question: is water wet?\n\n"
        "Answer format: true/false",
    ),
    (
        "piqa",
        ("open a jar", ("twist the lid", "freeze it "), 0),
        "Please choose the correct solution to the question: open a jar\n\nSolution1: twist the lid\n\n"
        "Solution2: freeze it \n\nAnswer format: solution1/solution2",
    ),
    (
        "social_i_qa",
        ("Kim ran. Why did Kim run?", ("late", "bored", "hungry"), 0),
        "Please choose the correct answer to the question: Kim ran. Why did Kim run?\n\n"
        "Answer1: late Answer2: bored Answer3: hungry\n\nAnswer format: answer1/answer2/answer3",
    ),
    (
        "hellaswag",
        ("Rowing: A man", ("rows.", "sings.", "melts.", "votes."), 0),
        "Please choose the correct ending to complete the given sentence: Rowing: A man\n\n"
        "Ending1: rows. Ending2: sings. Ending3: melts. Ending4: votes.\n\n"
        "Answer format: ending1/ending2/ending3/ending4",
    ),
    (
        "winogrande",
        ("Ann beat Eve so _ won.", ("Ann", "Eve"), 0),
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "Ann beat Eve so _ won.\n\nOption1: Ann Option2: Eve Answer format: option1/option2",
    ),
    (
        "ARC-Easy",
        ("Which is red?", ("sky", "grass", "blood", "snow", "coal"), 2),
        "Please choose the correct answer to the question: Which is red?\n\nAnswer1: sky Answer2: grass "
        "Answer3: blood Answer4: snow Answer5: coal\n\n"
        "Answer format: answer1/answer2/answer3/answer4/answer5",
    ),
]


@pytest.mark.parametrize(("task", "content", "text"), EXAMPLES)
def test_an_instruction_renders_and_parses(task: str, content: tuple, text: str) -> None:
    [record] = build_records(task, "test", [content])
    assert render_instruction(record) == text
    assert parse_instruction(task, text) == content[:2]


def test_git_blob_id_is_gits() -> None:
    # `printf hello | git hash-object --stdin`
    assert git_blob_id(b"hello") == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"


@pytest.mark.parametrize("task", TASKS)
def test_the_package_gives_upstreams_test_file(task: str, paper_test: Callable[[str], list[Record]]) -> None:
    records = paper_test(task)
    assert len(records) == hub_size("commonsense", task, "test")
    assert git_blob_id(render_upstream_file(records)) == UPSTREAM_BLOBS[task]


@pytest.mark.parametrize("task", TASKS)
def test_rows_parse_back_into_the_same_records(task: str, paper_test: Callable[[str], list[Record]]) -> None:
    records = paper_test(task)
    assert from_rows(task, "test", [to_row(record) for record in records], "here") == records


@pytest.mark.skipif(
    "REPRO_DATA_DIR" not in os.environ, reason="REPRO_DATA_DIR names no folder with the files"
)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_local_files_parse_and_render_byte_for_byte(task: str, split: str) -> None:
    folder = Path(os.environ["REPRO_DATA_DIR"], "commonsense", "llm_adapters", task)
    found = sorted(folder.glob(f"{split}.json*"))
    if not found:
        pytest.skip(f"the data folder has no {split} set of {task}")
    content = found[0].read_bytes()
    if found[0].suffix == ".gz":
        content = gzip.decompress(content)
    assert render_upstream_file(from_rows(task, split, json.loads(content), "here")) == content  # type: ignore[arg-type]
    if split == "test":
        assert git_blob_id(content) == UPSTREAM_BLOBS[task]


def _row(**changes: Any) -> dict[str, Any]:
    [record] = build_records("piqa", "test", [("open a jar", ("twist", "freeze"), 0)])
    return to_row(record) | changes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            _row(instruction="Who are you?"),
            "here: row 2: not an instruction of LLM-Adapters' piqa: 'Who are you\\?'",
        ),
        (_row(answer="solution3"), "here: row 2: answer 'solution3'; allowed are solution1, solution2"),
        (
            _row(output="solution1"),
            "here: row 2: output is 'solution1'; LLM-Adapters has 'the correct answer is",
        ),
        (_row(input="a hint"), "here: row 2: input is 'a hint'; LLM-Adapters has ''"),
        (
            {"text": "another format"},
            "here: row 2 is an object with 'text'; it must be an object with instruction",
        ),
        (_row(idx="1"), "here: row 2 is an object with 'instruction, input, output, answer, idx'"),
        (_row(instruction=None), "here: row 2: instruction is None; it must be a text"),
        (_row(answer=1), "here: row 2: answer is 1; it must be a text"),
        (_row(input="\ud800"), "here: row 2: input has .*half of a surrogate pair"),
        (_row(instruction="a\0b"), "here: row 2: instruction has .*a NUL character"),
        (["a"], "here: row 2 is ..a..; it must be an object"),
    ],
)
def test_rows_of_another_form_are_refused(row: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_rows("piqa", "test", [_row(), row], "here")


@pytest.mark.parametrize("rows", [[], None, {}, "text", 3, {"data": [_row()]}], ids=repr)
def test_what_is_no_list_of_rows_is_refused(rows: object) -> None:
    with pytest.raises(
        DataError, match=r"here holds .*; it must be a list of objects with instruction, input"
    ):
        from_rows("piqa", "test", rows, "here")


def test_an_answer_that_is_no_option_is_refused() -> None:
    [record] = build_records("ARC-Easy", "test", [("q", ("a", "b", "c"), 0)])
    row = to_row(record) | {"answer": "answer4", "output": "the correct answer is answer4"}
    with pytest.raises(DataError, match=r"row 1: answer 'answer4'; allowed are answer1, answer2, answer3$"):
        from_rows("ARC-Easy", "test", [row], "here")


def test_an_instruction_of_another_task_is_refused() -> None:
    with pytest.raises(DataError, match="not an instruction of LLM-Adapters' winogrande"):
        parse_instruction("winogrande", _row()["instruction"])
