"""The families' data sets on the Hugging Face hub: `experiments/data/<family>.yaml`, and the rows behind it.

Plans take sizes from these files, so they need no data. Rows are read from a snapshot folder in the hub's
cache, downloaded if it is not there, and keep the Arrow columns of `datasets`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from repro.config import Frozen, Line, Name, load_named
from repro.paths import EXPERIMENTS
from repro.training.data import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# What is needed of a repository: the card, which may say which file belongs to which split, and the rows.
FILES = ("README.md", "*.parquet")

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


def hub_rows(family: str, name: str, split: str) -> dict[str, Dataset]:
    """The rows of a split by part, in the order of the parts.

    Raises:
        DataError: they cannot be loaded, or are not as many as described.
    """
    described = hub_sets(family)[name]
    wanted = described.splits[split]
    try:
        rows = _rows(described, wanted, cached=True)
    except Exception:  # not in the cache, or not whole
        try:
            rows = _rows(described, wanted, cached=False)
        # Offline, gated, renamed or moved: the hub's client raises many unrelated classes of errors.
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            revision = f" ({described.revision})" if described.revision else ""
            raise DataError(
                f"cannot load {described.repository}{revision} from the hub: {reason}; run `repro fetch` "
                "where there is a network, or set REPRO_DATA_DIR and choose the source 'local'"
            ) from error
    found = sum(map(len, rows.values()))
    if found != wanted.size:
        raise DataError(
            f"{described.repository} has {found} {name} {split} rows, experiments/data/{family}.yaml says "
            f"{wanted.size}; pin the revision that has as many"
        )
    return rows


def _rows(described: HubSet, wanted: HubSplit, *, cached: bool) -> dict[str, Dataset]:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        described.repository,
        repo_type="dataset",
        revision=described.revision,
        allow_patterns=list(FILES),
        local_files_only=cached,
    )
    return {part: _part(Path(folder), part) for part in wanted.parts}


def _part(folder: Path, part: str) -> Dataset:
    """One part: as the card says, or else by the names of the files, as the hub itself does."""
    import datasets
    from huggingface_hub import DatasetCard

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
