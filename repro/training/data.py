"""What all families need for their data: the error for bad data, the choice of records, their fingerprint.

A record is a frozen dataclass with an `id` that is a hash of its content. So deterministic choices depend on
content, never on row order or on a library's random generator.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from repro.config import ConfigError

# The default's look for circles takes a third of the time, and a record has none.
_JSON = json.JSONEncoder(check_circular=False)


class DataError(ConfigError):
    """Data is missing or not as expected; the message is one line that says what to do."""


class Identified(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Identified)
T = TypeVar("T")


def content_id(prefix: str, *content: Any) -> str:
    """`<prefix>/<12 hex digits of the content's sha256>`, the same for every source of a record."""
    return f"{prefix}/{hashlib.sha256(_JSON.encode(content).encode()).hexdigest()[:12]}"


def fingerprint(records: Iterable[Any]) -> str:
    """sha256 over records, dataclasses of one type, in their order: equal fingerprints mean equal data."""
    digest = hashlib.sha256()
    names: list[str] = []
    for record in records:
        names = names or [field.name for field in fields(record)]
        # `astuple` would also copy every value, in five times the time.
        content = [getattr(record, name) for name in names]
        digest.update(_JSON.encode(content).encode() + b"\n")
    return digest.hexdigest()


def fingerprints(**parts: Iterable[Any]) -> dict[str, str]:
    """The `fingerprint` of each part (train, validation, test)."""
    return {name: fingerprint(records) for name, records in parts.items()}


def select(records: Sequence[R], n: int, seed: int) -> list[R]:
    """`n` records, chosen and ordered by sha256 of seed and id.

    A smaller `n` gives a prefix of a larger one, and adding or removing records does not change the order of
    the others.
    """
    if not 0 < n <= len(records):
        raise DataError(f"cannot select {n} of {len(records)} records; ask for 1 to {len(records)}")
    return sorted(records, key=lambda record: hashlib.sha256(f"{seed}:{record.id}".encode()).digest())[:n]


def data_folder(root: Path | None, holding: str) -> Path:
    """The local data folder: `root`, or the one that REPRO_DATA_DIR names.

    Raises:
        DataError: neither is given.
    """
    folder = root or os.environ.get("REPRO_DATA_DIR")
    if not folder:
        raise DataError(f"REPRO_DATA_DIR is not set; set it to a folder that holds {holding}")
    return Path(folder)


def batches_by_tokens(
    items: Sequence[T], lengths: Sequence[int], tokens: int, *, packed: bool = False
) -> Iterator[list[T]]:
    """Cut items, sorted longest first, into batches of up to `tokens` tokens; a longer item is a batch alone.

    Padding counts: an item is a row as wide as the batch's longest, unless rows are `packed` with several
    items.
    """
    batch: list[T] = []
    taken = width = 0
    for item, length in zip(items, lengths, strict=True):
        if batch and taken + (length if packed else width) > tokens:
            yield batch
            batch, taken = [], 0
        if packed or not batch:
            width = length
        batch.append(item)
        taken += width
    if batch:
        yield batch
