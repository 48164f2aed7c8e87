"""Counts optimiser steps for the warm-up ramp, without any change to the training loop.

A layer with a ramp holds a counter for each adapter. A hook after every optimiser step of the process
advances the counters of the adapters whose factors that optimiser holds. So gradient accumulation counts
once, a step that a gradient scaler skips does not count, and two models count separately.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

if TYPE_CHECKING:
    from .layer import DualLoraLayer

_layers: weakref.WeakSet[DualLoraLayer] = weakref.WeakSet()


def follow(layer: DualLoraLayer) -> None:
    """Advance the counters of `layer` from now on, until it is deleted."""
    _layers.add(layer)


def _advance(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if not _layers:
        return
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in _layers:
        for name, step in layer.dual_lora_step.items():
            # Looks at one factor only, so that two optimisers that share an adapter's factors count once.
            trained = next((f for f in layer.factors(name).values() if f.requires_grad), None)
            if id(trained) in stepped:
                step.add_(1)


register_optimizer_step_post_hook(_advance)
