"""What is done when a device runs out of memory: the same work in smaller pieces."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def free_memory() -> None:
    """Give back what a pass that broke off has left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cut_rows(micro_batch: dict[str, Tensor], halvings: int) -> list[dict[str, Tensor]]:
    """A micro-batch in up to 2^halvings pieces of equal rows; losses are sums, so they add up to the same."""
    rows = len(next(iter(micro_batch.values())))
    size = halved(rows, halvings)
    return [
        {name: tensor[start : start + size] for name, tensor in micro_batch.items()}
        for start in range(0, rows, size)
    ]


def cut(items: Sequence[Any], halvings: int) -> list[Sequence[Any]]:
    """The same of a list."""
    size = halved(len(items), halvings)
    return [items[start : start + size] for start in range(0, len(items), size)]


def halved(size: int, halvings: int) -> int:
    """A size halved so many times, rounded up; at least 1."""
    return max(1, -(-size // 2**halvings))
