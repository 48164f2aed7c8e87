"""The token cache: what was stored comes back, what is damaged is made again, each key has its content."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from repro.training import causal_lm, options
from repro.training import token_cache as module
from repro.training.causal_lm import encode_example
from repro.training.options import encode_options
from repro.training.token_cache import cached_arrays, encoded_examples, encoded_options, joined, parted

Rows = list[tuple[int, ...]]
ROWS: Rows = [(1, 70_000, 3), (4,), (9, 8, 7, 6)]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "dual-lora-repro" / "tokens"


def unexpected() -> Rows:
    raise AssertionError("built although it was stored")


def building(rows: Rows) -> Callable[[], Rows]:
    return lambda: rows


def cached(key: list[str], build: Callable[[], Rows]) -> Rows:
    stored = cached_arrays(key, lambda: joined(build()))
    return parted(stored["ids"], stored["ends"])


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []], ids=["several", "one", "none"])
def test_a_second_call_reads_what_the_first_one_built(rows: Rows) -> None:
    assert cached(["texts", "tokenizer"], building(rows)) == rows
    assert cached(["texts", "tokenizer"], unexpected) == rows


@pytest.mark.parametrize("key", [["texts", "other"], ["texts"], ["tokenizer", "texts"], ["textstokenizer"]])
def test_another_key_is_another_content(key: list[str]) -> None:
    cached(["texts", "tokenizer"], building(ROWS))
    assert cached(key, building(ROWS[1:])) == ROWS[1:]
    assert cached(["texts", "tokenizer"], unexpected) == ROWS


def test_only_the_finished_file_is_left_behind(folder: Path) -> None:
    cached(["key"], building(ROWS))
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
    cached(["key"], building(ROWS))
    (file,) = folder.iterdir()
    content = file.read_bytes()
    assert damage(content) != content
    file.write_bytes(damage(content))
    assert cached(["key"], building(ROWS)) == ROWS
    assert cached(["key"], unexpected) == ROWS


def test_every_cut_is_noticed(folder: Path) -> None:
    """A full disk cuts where it likes."""
    cached(["key"], building(ROWS))
    (file,) = folder.iterdir()
    content = file.read_bytes()
    for length in range(0, len(content), 13):
        file.write_bytes(content[:length])
        assert cached(["key"], building(ROWS)) == ROWS


def test_a_file_of_another_key_is_not_believed(folder: Path) -> None:
    cached(["one"], building(ROWS))
    (one,) = folder.iterdir()
    content = one.read_bytes()
    cached(["two"], building(ROWS[1:]))
    (two,) = set(folder.iterdir()) - {one}
    two.write_bytes(content)
    assert cached(["two"], building(ROWS[1:])) == ROWS[1:]
    assert cached(["two"], unexpected) == ROWS[1:]


def test_an_example_comes_back_with_its_prompt_and_its_cut(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [("abc", "de", ""), ("abcdefgh", "ij", "ab"), ("", "k", "")]
    settings: dict[str, Any] = {"append_eos": True, "max_tokens": 9, "truncation": "context"}
    alone = [
        encode_example(tokenizer, prompt, completion, head=head, **settings)
        for prompt, completion, head in texts
    ]
    assert [example.dropped for example in alone] == [0, 3, 0]
    assert encoded_examples(texts, tokenizer, **settings) == alone
    monkeypatch.setattr(causal_lm, "encode_example", None)
    assert encoded_examples(texts, tokenizer, **settings) == alone
    with pytest.raises(TypeError):
        encoded_examples(texts, tokenizer, **settings | {"truncation": "left"})


def test_questions_come_back_with_their_continuations(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [("Who?", [" I", " the king"]), ("When?", []), ("", [" now", "", " then"])]
    alone = [encode_options(tokenizer, *text) for text in texts]
    assert encoded_options(texts, tokenizer) == alone
    monkeypatch.setattr(options, "encode_options", None)  # from here on the cache alone
    assert encoded_options(texts, tokenizer) == alone
    with pytest.raises(TypeError):
        encoded_options([("Who?", [" I the", " king"]), *texts[1:]], tokenizer)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_read(folder: Path, make: Callable[[Path], None]) -> None:
    cached(["key"], building(ROWS))
    (file,) = folder.iterdir()
    file.unlink()
    make(file)
    assert cached(["key"], building(ROWS)) == ROWS


def test_nothing_in_it_is_executed(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    cached(["key"], building(ROWS))
    (file,) = folder.iterdir()
    file.write_bytes(pickle.dumps(Payload()))
    assert cached(["key"], building(ROWS)) == ROWS
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("one", "other"), [(["a\0b"], ["a", "b"]), (["a", ""], ["a"])])
def test_keys_are_not_joined(one: list[str], other: list[str]) -> None:
    cached(one, building(ROWS))
    assert cached(other, building([])) == []


def test_the_tests_have_a_cache_of_their_own(token_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cached(["a test of the tests"], building(ROWS))
    assert list((token_cache / "dual-lora-repro" / "tokens").glob("*.tokens"))
