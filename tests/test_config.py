"""Reading settings: every problem is reported, with its place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from repro.config import (
    ConfigError,
    Frozen,
    Line,
    Name,
    Seed,
    load_named,
    load_yaml,
    one_of,
    parse,
    partial_problems,
)


class Inner(Frozen):
    rank: int
    kind: Literal["a", "b"] = "a"


class Outer(Frozen):
    inner: Inner
    many: dict[str, Inner] = Field(default_factory=dict)


def problems(content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(content, Outer, source="file.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            {"inner": {"rank": 1, "rnak": 2}},
            "inner.rnak: unknown key (got 2; allowed: kind, rank; did you mean 'rank'?)",
        ),
        ({"inner": {"rank": 1}, "other": 0}, "other: unknown key (got 0; allowed: inner, many)"),
        (
            {"inner": {"rank": 1}, "many": {"x": {"rank": 1, "z": 2}}},
            "many.x.z: unknown key (got 2; allowed: kind, rank)",
        ),
        (
            {"inner": {"rank": 1, "kind": "c"}},
            "inner.kind: not one of the known values (got 'c'; allowed: 'a' or 'b')",
        ),
        ({"inner": {}}, "inner.rank: missing, and it has no default"),
        ([1], "must be a mapping with the keys inner, many (got [1])"),
    ],
)
def test_a_problem_names_file_key_value_and_what_is_allowed(content: Any, line: str) -> None:
    assert problems(content) == f"file.yaml: {line}"


def test_all_problems_are_reported_at_once() -> None:
    lines = problems({"inner": {"rank": "many", "kind": "c"}, "x": 1}).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["inner.rank", "inner.kind", "x"]


def test_settings_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner(rank=1).rank = 2  # type: ignore[misc]


def test_yaml_becomes_settings(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("inner: {rank: 3, kind: b}\n")
    assert load_yaml(file, Outer) == Outer(inner=Inner(rank=3, kind="b"))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "not valid YAML"), ("a: 1", "unknown key"), (None, "cannot be read")]
)
def test_an_unusable_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "x.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(file, Outer)
    assert str(caught.value).startswith(f"{file}: ")


def test_an_unknown_name_comes_with_the_known_ones() -> None:
    assert one_of("method", "lara", ["lora", "dora"]) == (
        "unknown method 'lara'; known: dora, lora; did you mean 'lora'?"
    )


class Everything(Frozen):
    whole: int = 0
    number: float = 0.0
    switch: bool = False
    text: str = ""
    many: tuple[tuple[int, ...], ...] = ()
    name: Name = "x"
    line: Line = ""
    seed: Seed = 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("whole", value) for value in (True, "1", 1.0, 1.5, None, 2**63)),
        *(("number", value) for value in (True, "1e-3", math.inf, -math.inf, math.nan, None)),
        *(("switch", value) for value in (1, 0, "yes", "true", None)),
        *(("text", value) for value in (1, True, b"a")),
        *(("many", value) for value in ([[True]], [["1"]], [1])),
        *(("name", value) for value in ("", ".", "..", "a/b", "../a", "a b", "a\n", "ä", "\0", "a" * 101)),
        *(("line", value) for value in ("a\nb", "a\0", "\x1b[2J", "a\u2028b", "\ud800")),
        *(("seed", value) for value in (-1, 2**32, True, "0")),
    ],
)
def test_no_value_is_converted_and_no_impossible_one_is_taken(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^x: {key}") as caught:
        parse({key: value}, Everything, "x")
    assert len(str(caught.value).splitlines()) == 1


def test_lists_are_tuples_and_whole_numbers_are_numbers() -> None:
    read = parse({"many": [[1], [2]], "number": 1, "name": "A-b_c.1", "seed": 2**32 - 1}, Everything, "x")
    assert (read.many, read.number) == (((1,), (2,)), 1.0)
    assert isinstance(read.number, float)
    assert Everything.model_validate_json(read.model_dump_json()) == read


def test_partial_settings_are_checked_value_by_value() -> None:
    assert partial_problems({"many": {"x": {"rank": 1}}}, Outer) == []
    assert partial_problems({"inner": {"rank": True}, "mnay": 1, "many": {}}, Outer, fixed=("many",)) == [
        "many: cannot be set here",
        "inner.rank: Input should be a valid integer (got True)",
        "mnay: unknown key (got 1; allowed: inner, many; did you mean 'many'?)",
    ]


class Named(Frozen):
    name: Name


@pytest.mark.parametrize("said", ["other", "../../x"])
def test_a_name_is_the_file_s(tmp_path: Path, said: str) -> None:
    (tmp_path / "x.yaml").write_text(f"name: {said}")
    with pytest.raises(ConfigError, match=r"x.yaml: name: "):
        load_named("thing", "x", tmp_path, Named)
    with pytest.raises(ConfigError, match=r"unknown thing '\.\./x'"):
        load_named("thing", "../x", tmp_path, Named)
