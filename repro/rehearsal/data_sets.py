"""Tiny data sets in the hub's layout, with made-up records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.benchmarks.hub_sets import HubSet, hub_sets
from repro.rehearsal.hub_cache import snapshot_folder
from repro.rehearsal.records import rows


def write_data_sets(family: str, hub: Path) -> None:
    """Write every data set of a family into the hub's cache, with as many rows as its description says."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    for name, described in hub_sets(family).items():
        folder = snapshot_folder(hub, "dataset", described.repository, described.revision)
        for split, wanted in described.splits.items():
            made = rows(family, name, split, wanted.size)
            for number, part in enumerate(wanted.parts):
                path = folder / _file(described, part)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_table(pa.Table.from_pylist(made[number :: len(wanted.parts)]), path)


def texts(family: str) -> Iterator[str]:
    """All texts of a family's data sets, for a tokenizer to learn from."""
    for name, described in hub_sets(family).items():
        for row in rows(family, name, "train", described.splits["train"].size):
            yield from (value for value in row.values() if isinstance(value, str))


def _file(described: HubSet, part: str) -> str:
    configuration, _, split = part.rpartition("/")
    if described.revision == "refs/convert/parquet":
        return f"{configuration or 'default'}/{split}/0000.parquet"
    return f"{configuration or 'data'}/{split}-00000-of-00001.parquet"
