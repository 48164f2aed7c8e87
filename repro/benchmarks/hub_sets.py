"""The families' data sets on the Hugging Face hub: `experiments/data/<family>.yaml`, and the rows behind it.

Plans take sizes from these files, so they need no data. Rows are read from a snapshot folder in the hub's
cache, downloaded if it is not there.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from repro import hub
from repro.config import Frozen, Line, Name, load_named
from repro.hub import Repository
from repro.paths import EXPERIMENTS
from repro.training.data import DataError

if TYPE_CHECKING:
    from datasets import Dataset

    from repro.benchmarks.base import Benchmark

# The card, which may say which file belongs to which split, and the rows; as in `Repository.needed`.
_FILES = ["README.md", "*.parquet"]

_WORD = r"[A-Za-z0-9_][A-Za-z0-9._-]*"


class HubSplit(Frozen):
    """One split as a family uses it.

    Attributes:
        parts: `configuration/split` on the hub, in the order of the rows; `split` of a set without
            configurations.
        size: rows of all parts together.
    """

    parts: tuple[Annotated[str, Field(pattern=rf"^({_WORD}/)?{_WORD}$")], ...] = Field(min_length=1)
    size: int = Field(ge=1)


class HubSet(Frozen):
    """A data set on the hub.

    Attributes:
        repository: its id.
        revision: commit or branch; None is the main branch.
    """

    repository: str = Field(pattern=rf"^({_WORD}/)?{_WORD}$")
    revision: Line | None = None
    splits: dict[Name, HubSplit]


class HubSets(Frozen):
    """The data sets of a family, by task."""

    sets: dict[Name, HubSet]


@cache  # a plan asks for the size of each of its rows
def hub_sets(family: str, experiments: Path = EXPERIMENTS) -> dict[str, HubSet]:
    """The data sets of a family, by task.

    Raises:
        ConfigError: there is no such file, or it is wrong.
    """
    return load_named("data description", family, experiments / "data", HubSets).sets


def hub_size(family: str, name: str, split: str) -> int:
    """Rows of a split."""
    return hub_sets(family)[name].splits[split].size


def set_repositories(benchmark: Benchmark) -> list[Repository]:
    """Where the data sets are that a run with these settings reads from the hub; none of another source."""
    if getattr(benchmark, "source", None) != "hub":
        return []
    names = getattr(benchmark, "tasks", (benchmark.family,))
    sets = [hub_sets(benchmark.family)[name] for name in names]
    return [Repository("dataset", found.repository, found.revision) for found in sets]


def hub_rows(family: str, name: str, split: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a split by part, in the order of the parts: from the cache, or else downloaded.

    Raises:
        DataError: they cannot be loaded, or are not as many as described.
    """
    described = hub_sets(family)[name]
    wanted = described.splits[split]
    where = Repository("dataset", described.repository, described.revision)
    try:
        rows = _rows(where, wanted)
    except Exception as missing:  # not in the cache, not all of it, or not what is described
        try:
            if (reason := hub.offline()) is not None:
                raise OSError(f"{missing}, and {reason}") from missing
            _download(where)
            rows = _rows(where, wanted)
        # Gated, renamed or moved, damaged: the client and `datasets` raise many unrelated classes of errors.
        except Exception as error:
            raise DataError(
                f"cannot load {name} {split} of {where.id}: {hub.how_to_get(where, error)}; or set "
                "REPRO_DATA_DIR and choose the source 'local'"
            ) from error
    # All rows at once: each by itself is copied out of Arrow in a hundred times the time.
    return {part: table.to_list() for part, table in rows.items()}


def _download(where: Repository) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(where.id, repo_type=where.kind, revision=where.revision, allow_patterns=_FILES)


def _rows(where: Repository, wanted: HubSplit) -> dict[str, Dataset]:
    folder = hub.cached_folder(where)
    if folder is None:
        raise FileNotFoundError("not in the cache")
    rows = {part: _part(folder, part) for part in wanted.parts}
    found = sum(map(len, rows.values()))
    if found != wanted.size:
        raise ValueError(f"it has {found} rows, its file in experiments/data says {wanted.size}")
    return rows


def _part(folder: Path, part: str) -> Dataset:
    """One part: as the card says, or else by the names of the files, as the hub itself does."""
    import datasets
    from huggingface_hub import DatasetCard

    datasets.disable_progress_bars()  # one for each part, beside the run's own line
    configuration, _, split = part.rpartition("/")
    card = folder / "README.md"
    if card.exists() and DatasetCard.load(card).data.to_dict().get("configs"):
        # Sizes are checked against our own description.
        return datasets.load_dataset(
            str(folder), configuration or None, split=split, verification_mode="no_checks"
        )
    # data/train-00000-of-00001.parquet, and mnli/train/0000.parquet in the branch of converted sets.
    name = re.compile(rf"(.*/)?{configuration}/?{split}(/[^/]+|-[0-9]+-of-[0-9]+)?\.parquet")
    files = [
        str(path)
        for path in sorted(folder.rglob("*.parquet"))
        if name.fullmatch(path.relative_to(folder).as_posix())
    ]
    if not files:
        raise FileNotFoundError(f"no parquet file of {part}")
    return datasets.Dataset.from_parquet(files)
