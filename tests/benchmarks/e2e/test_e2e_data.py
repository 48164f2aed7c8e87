"""Records of E2E: the real files, the grammar, what is refused; and the texts that are trained on."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from repro.benchmarks.e2e.benchmark import E2E
from repro.benchmarks.e2e.module import training_text
from repro.benchmarks.e2e.records import SLOTS, grouped, pairs, read_rows
from repro.benchmarks.e2e.sources import SOURCES, LocalSource
from repro.benchmarks.e2e.synthetic import synthetic_rows
from repro.training.causal_lm import encode_example
from repro.training.data import DataError
from repro.training.generation import NoRepeatedNGrams

MEANING = "name[The Eagle], eatType[coffee shop], customer rating[5 out of 5], familyFriendly[yes]"


def rows(*contents: tuple[str, str]):
    return read_rows([{"mr": mr, "ref": ref} for mr, ref in contents], ("mr", "ref"), "here")


@pytest.mark.skipif("REPRO_DATA_DIR" not in os.environ, reason="wants the local data folder")
def test_the_official_files_have_the_official_sizes() -> None:
    found = {split: LocalSource().load(split) for split in ("train", "validation", "test")}
    assert [len(part) for part in found.values()] == [42_061, 4_672, 4_693]
    assert [len(grouped(found[split])) for split in ("validation", "test")] == [547, 630]
    assert len({record.id for record in pairs(found["train"])}) == 42_061


def test_a_representation_reads_as_in_the_lora_papers_files() -> None:
    (record,) = pairs(rows((MEANING, "A place.")))
    assert record.prompt == (
        "name : The Eagle | Type : coffee shop | customer rating : 5 out of 5 | family friendly : yes"
    )


def test_test_records_have_all_their_references() -> None:
    first, second = grouped(rows((MEANING, "One."), ("name[B]", "Two."), (MEANING, "Three.")))
    assert first.references == ("One.", "Three.") and second.references == ("Two.",)
    assert len({record.id for record in pairs(rows((MEANING, "One."), (MEANING, "One.")))}) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mr,text\nname[B],x\n", "the heading is 'mr,text'; it must be mr,ref"),
        ('mr,ref\n"name[B], colour[red]",x\n', r"row 1: cannot read .* at ' colour\[red\]'"),
        ("mr,ref\nname B,x\n", "row 1: cannot read 'name B'"),
        ("mr,ref\n,x\n", "row 1: an empty meaning representation"),
        ("mr,ref\nname[B],\n", "row 1 has no reference"),
        ("mr,ref\n", "no rows; an empty split"),
        ("\n", "the heading is ''; it must be mr,ref"),
        ("mr,ref,id\nname[B],x,1\n", "the heading is 'mr,ref,id'"),
        ("mr,ref\nname[B],x\nname[B], food[C],x\n", r"row 2 \(line 3\) has 3 fields, .* quotes around one"),
        ("mr,ref\nname[B]\n", r"row 1 \(line 2\) has 1 fields"),
        ("mr,ref\nname[B],x\n\nname[B],x\n", r"row 2 \(line 3\) has 1 fields"),
        ('mr,ref\nname[B],x\nname[B],"x\n', "the record of line 3 has a quote that is not closed"),
        ('mr,ref\nname[B],"x\r\ny"\r\n"name[B]" ,x\r\n', "the record of line 4 has a quote .* at ' ,x'"),
        ('mr,ref\nname[B],the "B" is\n', "the record of line 2 has a quote"),
        ('mr,ref\nname[B],"x.\nname[C],y."\n', r"row 1 has a representation in its reference, at 'name\[C\]"),
        ('mr,ref\n"name[B],",x\n', r"cannot read 'name\[B\],'"),
        ('mr,ref\n"name[B], name[C]",x\n', "has the slot name twice"),
        ("mr,ref\nname[],x\n", r"cannot read 'name\[\]'"),
        ("mr,ref\nname[B] food[C],x\n", "row 1: cannot read"),
        ("mr,ref\nname[B],x\0\n", "line 2 has a NUL character"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e" / "trainset.csv.gz").write_bytes(gzip.compress(content.encode()))
    with pytest.raises(DataError, match=message) as caught:
        LocalSource(tmp_path).load("train")
    assert "\n" not in str(caught.value)


def test_long_fields_quotes_and_lines_in_a_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "e2e").mkdir()
    text = (
        f'\ufeff"mr","ref"\r\n"name[B], food[C]","the ""B"",\r\nas said"\r\nname[D],{"x" * 200_000}\r\n\r\n'
    )
    (tmp_path / "e2e" / "trainset.csv").write_bytes(text.encode())
    assert LocalSource(tmp_path).load("train") == [
        ((("name", "B"), ("food", "C")), 'the "B",\r\nas said'),
        ((("name", "D"),), "x" * 200_000),
    ]


def test_missing_files_and_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"devset.csv is missing, and so is its .gz; copy devset.csv"):
        LocalSource(tmp_path).load("validation")
    with pytest.raises(DataError, match=r"unknown E2E source 'locale'.*did you mean 'local'"):
        SOURCES.get("locale")


def test_the_grammar_says_what_the_representation_does() -> None:
    splits = {split: grouped(synthetic_rows(split)) for split in ("train", "validation", "test")}
    assert {split: len(records) for split, records in splits.items()} == {
        "train": 1000, "validation": 100, "test": 200,
    }  # fmt: skip
    meanings = [record.slots for records in splits.values() for record in records]
    assert len(set(meanings)) == len(meanings)
    for record in splits["test"]:
        assert len(set(record.references)) == 5
        for slot, value in record.slots:
            assert slot in SLOTS
            if slot not in ("familyFriendly", "area", "food"):
                assert all(value in text for text in record.references), record
    assert synthetic_rows("train") == synthetic_rows("train")


def test_settings_are_chosen_on_the_development_set() -> None:
    test, development = E2E(source="synthetic"), E2E(source="synthetic", evaluated="development")
    assert development.test_records() == test._some(grouped(synthetic_rows("validation")), None)
    assert not {r.slots for r in development.test_records()} & {r.slots for r in test.test_records()}
    assert "all development representations" in development.note
    assert development.evaluation_size(49_152).items < test.evaluation_size(49_152).items


def test_a_training_text_is_context_end_token_and_sentence(tokenizer: PreTrainedTokenizerBase) -> None:
    (record,) = pairs(rows(("name[B]", "B is it.")))
    prompt, completion, _ = training_text(record, tokenizer)
    example = encode_example(tokenizer, prompt, completion, append_eos=True, max_tokens=64)
    text = tokenizer.decode(example.ids)
    assert text == "<s>name : B</s> B is it.</s>"
    assert tokenizer.decode(example.ids[example.prompt_length :]) == " B is it.</s>"
    with pytest.raises(DataError, match="no end token"):
        bare = type("Bare", (), {"eos_token": None})()
        training_text(record, bare)


def test_n_grams_may_come_from_the_prompt_but_not_twice() -> None:
    # Prompt 5 6 7; so far 5 6 8 5: a 6 would repeat "5 6", though a 7 after it would only repeat the prompt.
    ids = torch.tensor([[5, 6, 7, 5, 6, 8, 5], [5, 6, 7, 8, 8, 5, 6]])
    scores = LogitsProcessorList([NoRepeatedNGrams(2, 3)])(ids, torch.zeros(2, 10))
    banned = [row.isinf().nonzero().flatten().tolist() for row in scores]
    assert banned == [[6], []]


def test_scores_are_of_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = E2E(source="synthetic")
    monkeypatch.setenv("PATH", "")
    predictions = [
        {"id": "b", "gold": ["the cat is here now"], "text": "the cat is here now"},
        {"id": "a", "gold": ["it is cold"], "text": ""},
    ]
    scores = benchmark.score(predictions)
    assert scores.keys() == benchmark.columns.keys()
    assert scores["nist"].unparsed == 0.5 and scores["nist"].items == 2
    assert scores["meteor"].value is None and "Java" in scores["meteor"].missing
    assert np_mean(scores["bleu"].outcomes) == pytest.approx(scores["bleu"].value, abs=1e-3)
    with pytest.raises(DataError, match="no predictions of e2e"):
        benchmark.score([])


def np_mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
