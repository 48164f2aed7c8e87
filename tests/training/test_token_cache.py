"""The token cache: what was stored comes back, what is damaged is made again, each key has its content."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.training import token_cache as module
from repro.training.causal_lm import Example
from repro.training.token_cache import cached_examples

EXAMPLES = [Example((1, 70_000, 3), 2), Example((4,), 1, 5), Example((9, 8, 7, 6), 0)]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "dual-lora-repro" / "tokens"


def unexpected() -> list[Example]:
    raise AssertionError("built although it was stored")


def building(examples: list[Example]) -> Callable[[], list[Example]]:
    return lambda: list(examples)


@pytest.mark.parametrize("examples", [EXAMPLES, EXAMPLES[:1], []], ids=["several", "one", "none"])
def test_a_second_call_reads_what_the_first_one_built(examples: list[Example]) -> None:
    assert cached_examples(["texts", "tokenizer"], building(examples)) == examples
    assert cached_examples(["texts", "tokenizer"], unexpected) == examples


@pytest.mark.parametrize("key", [["texts", "other"], ["texts"], ["tokenizer", "texts"], ["textstokenizer"]])
def test_another_key_is_another_content(key: list[str]) -> None:
    cached_examples(["texts", "tokenizer"], building(EXAMPLES))
    assert cached_examples(key, building(EXAMPLES[1:])) == EXAMPLES[1:]
    assert cached_examples(["texts", "tokenizer"], unexpected) == EXAMPLES


def test_only_the_finished_file_is_left_behind(folder: Path) -> None:
    cached_examples(["key"], building(EXAMPLES))
    assert [file.suffix for file in folder.iterdir()] == [".tokens"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"not an archive" * 20,
        lambda content: content.replace(b"ends", b"sdne"),
        # A well-formed archive with one other id in it: only the checksum can tell.
        lambda content: content.replace((70_000).to_bytes(4, "little"), (70_001).to_bytes(4, "little")),
    ],
    ids=["empty", "one-byte", "half", "all-but-one-byte", "other-file", "renamed-array", "other-id"],
)
def test_a_damaged_file_is_built_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    cached_examples(["key"], building(EXAMPLES))
    (file,) = folder.iterdir()
    content = file.read_bytes()
    assert damage(content) != content
    file.write_bytes(damage(content))
    assert cached_examples(["key"], building(EXAMPLES)) == EXAMPLES
    assert cached_examples(["key"], unexpected) == EXAMPLES


def test_every_cut_is_noticed(folder: Path) -> None:
    """A full disk cuts where it likes."""
    cached_examples(["key"], building(EXAMPLES))
    (file,) = folder.iterdir()
    content = file.read_bytes()
    for length in range(0, len(content), 13):
        file.write_bytes(content[:length])
        assert cached_examples(["key"], building(EXAMPLES)) == EXAMPLES


def test_a_file_of_another_key_is_not_believed(folder: Path) -> None:
    cached_examples(["one"], building(EXAMPLES))
    (one,) = folder.iterdir()
    content = one.read_bytes()
    cached_examples(["two"], building(EXAMPLES[1:]))
    (two,) = set(folder.iterdir()) - {one}
    two.write_bytes(content)
    assert cached_examples(["two"], building(EXAMPLES[1:])) == EXAMPLES[1:]
    assert cached_examples(["two"], unexpected) == EXAMPLES[1:]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_read(folder: Path, make: Callable[[Path], None]) -> None:
    cached_examples(["key"], building(EXAMPLES))
    (file,) = folder.iterdir()
    file.unlink()
    make(file)
    assert cached_examples(["key"], building(EXAMPLES)) == EXAMPLES


def test_nothing_in_it_is_executed(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    cached_examples(["key"], building(EXAMPLES))
    (file,) = folder.iterdir()
    file.write_bytes(pickle.dumps(Payload()))
    assert cached_examples(["key"], building(EXAMPLES)) == EXAMPLES
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("one", "other"), [(["a\0b"], ["a", "b"]), (["a", ""], ["a"])])
def test_keys_are_not_joined(one: list[str], other: list[str]) -> None:
    cached_examples(one, building(EXAMPLES))
    assert cached_examples(other, building([])) == []


def test_the_tests_have_a_cache_of_their_own(token_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cached_examples(["a test of the tests"], building(EXAMPLES))
    assert list((token_cache / "dual-lora-repro" / "tokens").glob("*.tokens"))
