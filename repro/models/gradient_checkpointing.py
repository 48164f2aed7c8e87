"""Gradient checkpointing: activations that the backward pass computes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import nn


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only the input of each of a transformer's blocks for the backward pass, in place.

    The random numbers of a block are repeated with it, so nothing changes but time and memory. Adapted or
    not.
    """
    without_wrapper(model).activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )
