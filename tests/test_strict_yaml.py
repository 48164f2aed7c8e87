"""YAML is read as people mean it; what nobody means is refused with its line, and at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.config import ConfigError, read_yaml


def read(tmp_path: Path, content: str | bytes) -> Any:
    file = tmp_path / "x.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("1:30", "1:30"),
        ("1e-3", 1e-3),
        ("1.5E+3", 1500.0),
        ("-7", -7),
        ("0x1f", 31),
        ("010", "010"),
        ("1_000", "1_000"),
        ("~", None),
        ("'1'", "1"),
    ],
)
def test_a_value_is_what_it_looks_like(tmp_path: Path, text: str, value: object) -> None:
    found = read(tmp_path, f"a: {text}\n")["a"]
    assert (found, type(found)) == (value, type(value))


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    content = read(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: [*a, {z: 4}]}\n")
    assert (content["b"], content["c"]) == ({"x": 3, "y": 2}, {"x": 1, "y": 2, "z": 4})


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1") == {"a": 1}


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
CHAIN = "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 400))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: {x: 1,\n  x: 2}", "line 3: .*key 'x' is given twice"),
        ("a: 1\n'a': 2", "line 2: .*key 'a' is given twice"),
        ("<<: {a: 1}\n<<: {b: 2}", "line 2: .*key '<<' is given twice"),
        ("a: 1\n2: b", "line 2: .*key '2' is no text"),
        ("true: b", "line 1: .*key 'true' is no text"),
        ("? [a]\n: b", "line 1: .*key 'a sequence' is no text"),
        ("a: 2026-13-45", "line 1: .*looks like a day"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: .*a tag"),
        ("a: !!float b", "line 1: .*a tag"),
        ("a: &a [*a]", "line 1: .*an alias inside of what it names"),
        ("a: " + "[" * 3000 + "]" * 3000, "line 1: .*nested more than 50 levels"),
        (CHAIN, "nested more than 50 levels"),
        (BOMB, "more than 200,000 values"),
        (MERGED, "more than 200,000 values"),
        ("a: " + "9" * 5000, "line 1: .*a number of 5000 digits"),
        ("---\na: 1\n---\nb: 2", "line 3: .*single document"),
        ("a: [1", "line 1: not valid YAML"),
        ("a: \0", "not valid YAML"),
        ('a: "\\ud800"', "line 1: .*half a character"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        (b"a: 1\nb: Gr\xf6\xdfe", "line 2: the byte 0xf6 is not UTF-8; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "not UTF-8"),
        ("a: " + "x" * 2**20, "too large"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_nobody_means_is_refused_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'x.yaml'}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a file"):
        read_yaml(tmp_path)
