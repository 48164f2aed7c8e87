"""A result that contradicts itself, or is no result, is named and never counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.paths import REFERENCE
from repro.runs.json_files import DamagedFile, write_json
from repro.runs.received import read_result

COMMITTED = sorted(REFERENCE.glob("runs/*--lora--seed0--*/result.json"))


def _score(result: dict[str, Any]) -> dict[str, Any]:
    return next(iter(result["scores"].values()))


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(result: dict[str, Any]) -> None:
        for key in keys[:-1]:
            result = result[key]
        result[keys[-1]] = to

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no spec": _set("spec", to={}),
    "a seed of another run": _set("spec", "seed", to=7),
    "a truth for a number": _set("spec", "seed", to=False),
    "another version": _set("version", to=2),
    "another hash": _set("hash", to="0" * 12),
    "another slug": _set("slug", to="../x"),
    "a number in quotes": _set("trainable_parameters", to="5"),
    "less than nothing": _set("total_seconds", to=-1.0),
    "no number": _set("total_seconds", to=float("nan")),
    "no end": _set("total_seconds", to=float("inf")),
    "losses of other steps": _set("training", "losses", to=[]),
    "other items": _set("evaluation", "items", to=3),
    "a rule that is none": _set("other_scores", to={"worst": {}}),
    "letters": lambda r: _score(r).update(outcomes="a" * _score(r)["items"]),
    "no items": lambda r: _score(r).update(items=0, outcomes=""),
    "a value beside its outcomes": lambda r: _score(r).update(value=100.0, outcomes="0" * _score(r)["items"]),
    "fewer probabilities": lambda r: _score(r).update(log_probabilities=[-1.0]),
    "more than certain": lambda r: _score(r).update(log_probabilities=[0.5] * _score(r)["items"]),
    "less than the floor": lambda r: _score(r).update(log_probabilities=[-101.0] * _score(r)["items"]),
    "a text for a probability": lambda r: _score(r).update(log_probabilities=["-1"] * _score(r)["items"]),
    "one outcome": lambda r: _score(r).update(outcomes="1"),
    "a column less": lambda r: r["scores"].popitem(),
    "a column more": lambda r: r["scores"].update(other=_score(r)),
}


def test_committed_results_are_whole() -> None:
    for path in COMMITTED:
        assert read_result(path, "") is not None


@pytest.mark.parametrize("change", CHANGES)
def test_a_contradiction_is_named(change: str, tmp_path: Path) -> None:
    content = json.loads(COMMITTED[0].read_text())
    CHANGES[change](content)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFile) as caught:
        read_result(path, "do this")
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and said.endswith("; do this") and "\n" not in said


@pytest.mark.parametrize("name", ["e2e", "glue-stsb"])
def test_a_column_without_a_probability_has_none(name: str, tmp_path: Path) -> None:
    content = json.loads(next(REFERENCE.glob(f"runs/{name}--*/result.json")).read_text())
    score = list(content["scores"].values())[-1]
    path = tmp_path / "result.json"
    score["log_probabilities"] = [-1.0] * score["items"]
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFile, match=r"log_probabilities, which a (e2e|glue) run has of other columns"):
        read_result(path, "do this")


def test_a_list_of_numbers_is_one_line_and_read_back_as_it_was(tmp_path: Path) -> None:
    found = read_result(COMMITTED[0], "")
    assert found is not None
    spec, result = found
    strange = ("[\n 1,\n 2\n]", "[1, 2]", '"')
    scores = {
        column: score.model_copy(update={"log_probabilities": (-1.5, 0.0) * (score.items // 2)})
        for column, score in result.scores.items()
    }
    result = result.model_copy(update={"warnings": strange, "scores": scores})
    path = tmp_path / "result.json"
    write_json(path, result)
    assert read_result(path, "") == (spec, result)
    text = path.read_text()
    assert "[-1.5,0.0,-1.5" in text
    assert json.loads(text) == json.loads(result.model_dump_json())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"hash": 1, "hash": 2}', b"[" * 100_000, b"9" * 5000, b'"\\ud800"'],
)
def test_what_is_no_result_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="not a valid result of version 1") as caught:
        read_result(path, "do this")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (Path.mkdir, "no ordinary file"),
        (os.mkfifo, "no ordinary file"),
        (lambda path: path.symlink_to("nothing"), "link to nothing"),
    ],
)
def test_what_is_no_file_is_one_line(put: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    put(tmp_path / "result.json")
    with pytest.raises(DamagedFile, match=why):
        read_result(tmp_path / "result.json", "")


def test_nothing_is_no_damage(tmp_path: Path) -> None:
    assert read_result(tmp_path / "result.json", "") is None
