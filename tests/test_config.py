"""Reading settings: every problem is reported, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from repro.config import ConfigError, Frozen, load_yaml, one_of, parse


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
