"""Meaning representations with their references, and how the LoRA paper's data write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.training.data import DataError, content_id

# Slots of the official files, and what the LoRA paper's files call them.
SLOTS: dict[str, str] = {
    "name": "name",
    "eatType": "Type",
    "food": "food",
    "priceRange": "price",
    "customer rating": "customer rating",
    "area": "area",
    "familyFriendly": "family friendly",
    "near": "near",
}

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Record:
    """One meaning representation.

    Args:
        id: `e2e/<12 hex digits of the content's sha256>`.
        slots: pairs of an official slot and its value, in the file's order.
        references: the sentences that people wrote for it; a training record has one.
    """

    id: str
    slots: tuple[tuple[str, str], ...]
    references: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """`name : The Eagle | Type : coffee shop | ...`, as in microsoft/LoRA's files."""
        return " | ".join(f"{SLOTS[slot]} : {value}" for slot, value in self.slots)


Row = tuple[tuple[tuple[str, str], ...], str]


def read_rows(rows: Iterable[Mapping[str, Any]], columns: tuple[str, str], source: str) -> list[Row]:
    """(slots, reference) of every row; `columns` names the representation's and the reference's.

    Raises:
        DataError: there are no rows, a column is missing, or a row has no reference or no readable slots.
    """
    found: list[Row] = []
    for number, row in enumerate(rows):
        absent = [name for name in columns if name not in row]
        if absent:
            raise DataError(f"{source}: no column {absent[0]!r}, there are {', '.join(row)}")
        meaning, reference = (row[name] or "" for name in columns)
        if not reference.strip():
            raise DataError(f"{source}: row {number} has no reference for {meaning!r}; use a file that has")
        found.append((_slots(meaning, f"{source}: row {number}"), reference.strip()))
    if not found:
        raise DataError(f"{source}: no rows; an empty split can be neither trained on nor scored")
    return found


def pairs(rows: Sequence[Row]) -> list[Record]:
    """One record a row, for training."""
    records: dict[str, Record] = {}
    for number, (slots, reference) in enumerate(rows):
        # Some rows occur twice, and both are kept.
        name = content_id("e2e", [list(slot) for slot in slots], reference)
        name = f"{name}-{number}" if name in records else name
        records[name] = Record(name, slots, (reference,))
    return list(records.values())


def grouped(rows: Sequence[Row]) -> list[Record]:
    """One record a meaning representation, with all its references, in the order of first appearance."""
    references: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for slots, reference in rows:
        references.setdefault(slots, []).append(reference)
    return [
        Record(content_id("e2e", [list(slot) for slot in slots]), slots, tuple(texts))
        for slots, texts in references.items()
    ]


def _slots(meaning: str, where: str) -> tuple[tuple[str, str], ...]:
    slots, end = [], 0
    while end < len(meaning):
        match = _SLOT.match(meaning, end)
        if match is None or match[1] not in SLOTS:
            raise DataError(
                f"{where}: cannot read {meaning!r} at {meaning[end : end + 20]!r}; a representation is a "
                f"list slot[value], ..., with the slots {', '.join(SLOTS)}"
            )
        slots.append((match[1], match[2]))
        end = match.end()
    if not slots:
        raise DataError(f"{where}: an empty meaning representation; write slot[value], ...")
    return tuple(slots)
