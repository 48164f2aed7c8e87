"""Gradient checkpointing: the backward pass recomputes activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import nn


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only the input of each transformer block for the backward pass, in place.

    Random numbers are repeated too, so only time and memory change. Works with and without adapters.
    """
    without_wrapper(model).activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )
