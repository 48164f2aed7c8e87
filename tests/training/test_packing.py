"""Rows of texts: all of them, none too wide, and less padding than without."""

from __future__ import annotations

import random

import pytest

from repro.training.data import batches_by_tokens
from repro.training.packing import pack


def padded(rows: list[list[int]], lengths: list[int]) -> int:
    return len(rows) * max(sum(lengths[index] for index in row) for row in rows)


@pytest.mark.parametrize("seed", range(20))
def test_every_text_is_in_one_row_and_no_row_is_too_wide(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 90) for _ in range(draw.randint(1, 24))]
    limit = draw.choice([1, 64, 192])
    rows = pack(lengths, limit)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(sum(lengths[index] for index in row) for row in rows) <= max(limit, max(lengths))
    assert sum(lengths) <= padded(rows, lengths) <= len(lengths) * max(lengths)


def test_the_width_is_the_one_that_pads_least() -> None:
    """Rows of 10 would hold 6 and 4 beside 6 without padding; rows of 16, all that fits, would pad 12."""
    assert pack([6, 4, 6, 4], 16) == [[0, 1], [2, 3]]
    assert pack([5, 3, 2], 9) == [[0], [1, 2]]


def test_texts_of_one_length_keep_a_row_and_their_order() -> None:
    assert pack([7, 7, 7], 100) == [[0], [1], [2]]


def test_batches_hold_so_many_tokens_padded_or_packed() -> None:
    lengths = [9, 5, 4, 4, 1, 1]
    assert list(batches_by_tokens(lengths, lengths, 10)) == [[9], [5, 4], [4, 1], [1]]
    assert list(batches_by_tokens(lengths, lengths, 10, packed=True)) == [[9], [5, 4], [4, 1, 1]]
    assert list(batches_by_tokens(lengths, lengths, 3)) == [[9], [5], [4], [4], [1, 1]]
