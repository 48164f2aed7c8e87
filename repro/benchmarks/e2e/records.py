"""Meaning representations with their references, and how the LoRA paper's data write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.training.data import DataError, content_id
from repro.training.data_files import checked_text, shown

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

# Another slot must follow a comma.
_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\[\]\r\n]+)\]\s*(?:,(?=.)|\Z)")
# What no sentence contains, unless a quote that is missing has joined it with the next record.
_INSIDE = re.compile(rf"(?:{'|'.join(SLOTS)})\[")


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
        DataError: there are no rows, a column is missing, or a row has no reference, no readable slots, or a
            representation in its reference.
    """
    found: list[Row] = []
    for number, row in enumerate(rows, 1):
        where = f"{source}: row {number}"
        absent = [name for name in columns if name not in row]
        if absent:
            raise DataError(f"{source}: no column {absent[0]!r}, there are {', '.join(row)}")
        meaning, reference = (checked_text(row[name], f"{where}: {name}") for name in columns)
        if not reference.strip():
            raise DataError(f"{where} has no reference for {shown(meaning)}; use a file that has")
        if inside := _INSIDE.search(reference):
            raise DataError(
                f"{where} has a representation in its reference, at {shown(reference[inside.start() :])}; "
                "look for a quote that is missing"
            )
        found.append((_slots(meaning, where), reference.strip()))
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
    slots: dict[str, str] = {}
    end = 0
    while end < len(meaning):
        match = _SLOT.match(meaning, end)
        if match is None or match[1] not in SLOTS or not match[2].strip():
            raise DataError(
                f"{where}: cannot read {shown(meaning)} at {meaning[end : end + 20]!a}; a representation is "
                f"a list slot[value], ..., with the slots {', '.join(SLOTS)}"
            )
        if match[1] in slots:
            raise DataError(f"{where}: {shown(meaning)} has the slot {match[1]} twice; name each once")
        slots[match[1]] = match[2]
        end = match.end()
    if not slots:
        raise DataError(f"{where}: an empty meaning representation; write slot[value], ...")
    return tuple(slots.items())
