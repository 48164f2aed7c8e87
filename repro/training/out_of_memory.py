"""What happens when a device runs out of memory: the same work is repeated in smaller pieces.

Pieces are counted in halvings: after n of them a pass has 1 / 2^n of the planned rows.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def halved(size: int, halvings: int) -> int:
    """`size` divided by 2^halvings, rounded up; at least 1."""
    return max(1, -(-size // 2**halvings))


def cut_rows(micro_batch: dict[str, Tensor], halvings: int) -> list[dict[str, Tensor]]:
    """A micro-batch in up to 2^halvings pieces of equal rows. Losses are sums: their total stays."""
    size = halved(_rows(micro_batch), halvings)
    return [
        {name: tensor[start : start + size] for name, tensor in micro_batch.items()}
        for start in range(0, _rows(micro_batch), size)
    ]


def one_more_halving(halvings: int, micro_batches: Sequence[dict[str, Tensor]], error: str | None) -> int:
    """The next number of halvings, after a training step failed; frees the memory of the failed passes.

    Args:
        error: the error's message; None if another process ran out of memory and not this one.

    Raises:
        OutOfMemoryError: passes have a single row already.
    """
    free_memory()
    if halved(max(_rows(micro_batch) for micro_batch in micro_batches), halvings) == 1:
        raise torch.OutOfMemoryError(
            f"out of memory in a training pass over a single row{f': {error}' if error else ''}; set "
            "execution.gradient_checkpointing, or execution.strategy fsdp with more devices"
        )
    return halvings + 1


def in_batches_that_fit(
    predict: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any], halvings: int, *, retries: bool
) -> tuple[list[Any], int]:
    """Predictions for all items, in their order, and the number of halvings that was needed.

    Raises:
        OutOfMemoryError: a single item does not fit, or `retries` is False.
    """
    while True:
        size = halved(len(items), halvings)
        try:
            pieces = [predict(items[start : start + size]) for start in range(0, len(items), size)]
            return [prediction for piece in pieces for prediction in piece], halvings
        except torch.OutOfMemoryError:
            if not retries or size == 1:
                raise
        # Outside of `except`, whose error keeps the tensors of the failed pass alive.
        free_memory()
        halvings += 1


def sharded_error(error: torch.OutOfMemoryError) -> torch.OutOfMemoryError:
    """The error of a sharded model, all of whose processes take part in a pass."""
    return torch.OutOfMemoryError(
        "out of memory in a pass of a sharded model, which one process cannot repeat alone; lower "
        f"execution.micro_batch_size ({error})"
    )


def free_memory() -> None:
    """Return the memory of a pass that failed to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rows(micro_batch: dict[str, Tensor]) -> int:
    return len(next(iter(micro_batch.values())))
