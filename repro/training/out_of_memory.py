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


def cut_rows(micro_batch: dict[str, Tensor], oom_backoff: int) -> list[dict[str, Tensor]]:
    """A micro-batch in up to 2^oom_backoff pieces of equal rows. Losses are sums, so their total stays."""
    rows = len(next(iter(micro_batch.values())))
    size = halved(rows, oom_backoff)
    return [
        {name: tensor[start : start + size] for name, tensor in micro_batch.items()}
        for start in range(0, rows, size)
    ]


def cut(items: Sequence[Any], oom_backoff: int) -> list[Sequence[Any]]:
    """The same of a list."""
    size = halved(len(items), oom_backoff)
    return [items[start : start + size] for start in range(0, len(items), size)]


def halved(size: int, oom_backoff: int) -> int:
    """A size halved so many times, rounded up; at least 1."""
    return max(1, -(-size // 2**oom_backoff))
