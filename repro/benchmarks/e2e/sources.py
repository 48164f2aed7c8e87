"""The sources of E2E rows: a local folder, the hub, or a grammar of this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repro.benchmarks.e2e.csv_rows import csv_rows
from repro.benchmarks.e2e.records import Row, read_rows
from repro.benchmarks.e2e.synthetic import synthetic_rows
from repro.benchmarks.hub_sets import hub_rows
from repro.benchmarks.sources import Sources
from repro.training.data import data_folder
from repro.training.data_files import decoded, read_plain_or_gzipped

Split = Literal["train", "validation", "test"]

_FILES: dict[Split, str] = {"train": "trainset", "validation": "devset", "test": "testset_w_refs"}
_COLUMNS = ("mr", "ref")


@dataclass(frozen=True)
class LocalSource:
    """The official files: `<root>/e2e/{trainset,devset,testset_w_refs}.csv`, each plain or gzipped.

    Args:
        root: the data folder; None means the one that REPRO_DATA_DIR names.
    """

    root: Path | None = None
    note = "the official E2E files, from REPRO_DATA_DIR"

    def load(self, split: Split) -> list[Row]:
        path = data_folder(self.root, "e2e") / "e2e" / f"{_FILES[split]}.csv"
        path, content = read_plain_or_gzipped(path, f"{path.name} of tuetschek/e2e-dataset")
        return read_rows(csv_rows(decoded(content, path), _COLUMNS, str(path)), _COLUMNS, str(path))


@dataclass(frozen=True)
class HubSource:
    """The set that `experiments/data/e2e.yaml` describes."""

    note = "tuetschek/e2e_nlg from the hub"

    def load(self, split: Split) -> list[Row]:
        rows = (row for part in hub_rows("e2e", "e2e", split).values() for row in part)
        return read_rows(rows, ("meaning_representation", "human_reference"), f"tuetschek/e2e_nlg, {split}")


@dataclass(frozen=True)
class SyntheticSource:
    """Sentences of our own grammar; see `synthetic`."""

    note = "SYNTHETIC: representations and references made by a grammar of this project, not the E2E set"

    def load(self, split: Split) -> list[Row]:
        return synthetic_rows(split)


SOURCES: Sources[[Split], Row] = Sources("E2E", local=LocalSource, hub=HubSource, synthetic=SyntheticSource)
