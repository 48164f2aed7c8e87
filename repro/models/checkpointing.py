"""Gradient checkpointing: activations that the backward pass computes again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only the input of each of a transformer's blocks for the backward pass, in place.

    The random numbers of a block are repeated with it, so nothing changes but time and memory. Adapted or
    not.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
