"""Gradient checkpointing: the backward pass recomputes activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import nn


def checkpoint_blocks(model: nn.Module, context_fn: Callable[[], tuple[Any, Any]] | None = None) -> None:
    """Keep only the input of each transformer block for the backward pass, in place.

    Random numbers are repeated too, so only time and memory change. Works with and without adapters.

    Args:
        context_fn: the contexts of a forward pass and of its repetition, see `torch.utils.checkpoint`.
    """
    contexts = {} if context_fn is None else {"context_fn": context_fn}
    without_wrapper(model).activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False} | contexts
    )
