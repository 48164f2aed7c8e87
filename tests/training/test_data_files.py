"""Files that cannot be what they should be: one line that names them, and never more memory than fits."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.training import data_files
from repro.training.data import DataError
from repro.training.data_files import checked_text, decoded, parsed_json, read_plain_or_gzipped, shown

ZIPPED = gzip.compress(b"content " * 100)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("file.gz", lambda path: path.write_bytes(ZIPPED[:20]), "is damaged"),
        ("file.gz", lambda path: path.write_bytes(ZIPPED[:-8] + bytes(8)), "is damaged"),
        ("file.gz", lambda path: path.write_bytes(ZIPPED[:12] + b"\xff\xff" + ZIPPED[14:]), "is damaged"),
        ("file.gz", lambda path: path.write_bytes(b"plain"), "is damaged"),
        ("file.gz", lambda path: path.write_bytes(gzip.compress(bytes(10**6))), "holds more than"),
        ("file", lambda path: path.write_bytes(bytes(10**6)), "holds more than"),
        ("file", lambda path: path.write_bytes(b""), "is empty"),
        ("file", os.mkfifo, "is no regular file"),
        ("file", os.mkdir, "is no regular file"),
        ("file", lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        ("file", lambda path: path.symlink_to("nowhere"), "cannot be read .No such file"),
        ("file", lambda path: path.symlink_to(path), "cannot be read .Too many levels"),
        ("other", Path.touch, "file is missing, and so is its .gz"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    name: str, make: Callable[[Path], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MOST_BYTES", 10**5)
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        read_plain_or_gzipped(tmp_path / "file", "the file of a set")
    assert "\n" not in str(caught.value) and "copy the file of a set there" in str(caught.value)
    assert str(tmp_path / "file") in str(caught.value)


def test_a_mark_of_the_byte_order_is_dropped() -> None:
    assert decoded(b"\xef\xbb\xbfa\xc2\xa3", "here") == "a£"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n£".encode("latin-1"), r"here: line 2 is not UTF-8 \(byte 0xa3\); save it as UTF-8"),
        ("a£".encode("utf-16"), "here: line 1 is not UTF-8"),
        ("ab".encode("utf-16-le"), "here: line 1 has a NUL character"),
        (b"a\nb\0", "here: line 2 has a NUL character"),
        (b"\xed\xa0\x80", "here: line 1 is not UTF-8"),  # half of a surrogate pair
    ],
)
def test_text_in_another_encoding_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decoded(content, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[1,]", "is no JSON"),
        ("[] []", "is no JSON .Extra data: line 1"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ('[{"a": 1}, {"b": 1, "b": 1}]', "the object in row 2 has the key 'b' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5_000, "is no JSON"),
    ],
)
def test_what_is_no_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parsed_json(text, "here")
    assert str(caught.value).startswith("here") and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value", [None, 1, True, ["a"], {"a": 1}, b"a", "a\0", "\udc80", "a\ud83d"], ids=repr
)
def test_a_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="here: row 1: ref"):
        checked_text(value, "here: row 1: ref")


def test_an_astral_character_is_a_text() -> None:
    assert checked_text(parsed_json(r'"\ud83d\ude00 \ufffd"', "here"), "here") == "\U0001f600 \ufffd"


@pytest.mark.parametrize("depth", [10, 400, 900])
def test_what_is_shown_is_short(depth: int) -> None:
    nested: object = "x" * 10**6
    for _ in range(depth):
        nested = [nested]
    assert len(shown(nested)) <= 60
    assert "\n" not in shown("a\nb") and len(shown("x" * 10**6)) <= 60
