"""Records: ids that name content, choices that hang on content alone, and the paper's sizes."""

from __future__ import annotations

import hashlib

import pytest

from repro.benchmarks.commonsense.records import TASKS, Record, build_records, get_task, mix
from repro.training.data import DataError, fingerprint, select


def _records(count: int, task: str = "piqa") -> list[Record]:
    return build_records(task, "train", [(f"question {i} _", ("left", "right"), i % 2) for i in range(count)])


def test_tasks_stand_in_the_papers_column_order() -> None:
    titles = [task.title for task in TASKS.values()]
    assert titles == ["BoolQ", "PIQA", "SIQA", "HellaS.", "WinoG.", "ARC-e", "ARC-c", "OBQA"]


def test_id_is_a_hash_of_the_content_and_counts_copies() -> None:
    content = ("dresser", ("a", "b"), 1)
    first, other, copy = build_records("piqa", "test", [content, ("dresser", ("a", "b"), 0), content])
    digest = hashlib.sha256(b'["piqa", "dresser", ["a", "b"], 1]').hexdigest()
    assert first.id == f"piqa/{digest[:12]}"
    assert copy.id == f"{first.id}-2"
    assert other.id not in (first.id, copy.id)


def test_select_takes_the_smallest_hashes_of_seed_and_id() -> None:
    records = _records(40)
    reference = sorted(
        (hashlib.sha256(f"7:{record.id}".encode()).hexdigest(), record.id) for record in records
    )
    assert [record.id for record in select(records, 10, seed=7)] == [name for _, name in reference[:10]]


def test_select_ignores_row_order_and_follows_the_seed() -> None:
    records = _records(40)
    assert select(records, 10, seed=7) == select(records[::-1], 10, seed=7)
    assert select(records, 10, seed=7) != select(records, 10, seed=8)


@pytest.mark.parametrize("count", [0, 6])
def test_select_refuses_a_count_it_cannot_give(count: int) -> None:
    with pytest.raises(DataError, match=f"cannot select {count} of 5 records; ask for 1 to 5"):
        select(_records(5), count, seed=0)


def test_mix_holds_every_record_once_and_interleaves_the_tasks() -> None:
    parts = [_records(30, "piqa"), _records(30, "winogrande")]
    mixed = mix(parts, seed=0)
    assert {record.id for record in mixed} == {record.id for part in parts for record in part}
    assert len(mixed) == 60
    assert {record.task for record in mixed[:15]} == {"piqa", "winogrande"}


def test_fingerprint_changes_with_any_field_and_with_the_order() -> None:
    rows = [("question _", ("left", "right"), 0), ("other _", ("left", "right"), 1)]
    reference = build_records("piqa", "test", rows)
    variants = [
        reference[::-1],
        reference[:1],
        build_records("piqa", "train", rows),
        build_records("winogrande", "test", rows),
        build_records("piqa", "test", [("question _", ("left", "right"), 1), rows[1]]),
    ]
    prints = [fingerprint(records) for records in (reference, *variants)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(build_records("piqa", "test", rows)) == prints[0]


@pytest.mark.parametrize(
    ("options", "gold"), [(("only",), 0), (("a", "b", "c"), 0), (("a", "b"), 2), (("a", "b"), -1)]
)
def test_an_item_that_is_no_item_is_refused_with_its_row(options: tuple[str, ...], gold: int) -> None:
    rows = [("fine", ("a", "b"), 0), ("question", options, gold)]
    with pytest.raises(DataError, match=f"row 2: {len(options)} options and gold index {gold}"):
        build_records("piqa", "test", rows)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown commonsense task 'ARC-easy'; .* did you mean 'ARC-Easy'"):
        get_task("ARC-easy")
    with pytest.raises(DataError, match="unknown split 'validation'; known: test, train"):
        build_records("piqa", "validation", [])  # type: ignore[arg-type]
