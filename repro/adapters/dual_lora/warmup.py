"""Counts optimiser steps for the warm-up ramp, without any change to the training loop.

A layer with a ramp holds a counter for each adapter. What advances it:

- A hook around every optimiser step of the process, for the adapters whose factors that optimiser holds. So
  gradient accumulation counts once, a step that a gradient scaler skips does not count, and two models count
  separately. An optimiser that wraps another, as ZeroRedundancyOptimizer does, counts once.
- If no optimiser holds the factors (fp32 master copies, hand-written SGD): a change of their values between
  a backward pass and the next forward pass in training mode.
- `count_step`, where neither is seen: a compiled model that is trained through master copies.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from .layer import DualLoraLayer

_layers: weakref.WeakSet[DualLoraLayer] = weakref.WeakSet()
_clock = itertools.count(1)
_started: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()


@dataclass
class Watch:
    """What this process has seen of one adapter's training.

    Attributes:
        hooked: whether an optimiser that holds its factors has begun a step.
        counted: when, on the process's clock, a hook or `count_step` last counted a step; 0: never.
        reported: `counted` as `count_step` last left it.
        backward: whether a backward pass has reached the factors since their values were last compared.
        values: sum of the factors at the last forward pass.
        comparisons: how often the values were compared, each time after a backward pass.
        changed: whether a comparison has found a change.
    """

    hooked: bool = False
    counted: int = 0
    reported: int = 0
    backward: bool = False
    values: Tensor | None = None
    comparisons: int = 0
    changed: Tensor | None = None
    handle: RemovableHandle | None = None

    def saw_backward(self, parameter: Tensor) -> None:
        self.backward = True


def follow(layer: DualLoraLayer) -> None:
    """Advance the counters of `layer` from now on, until it is deleted."""
    layer.watches = {}
    _layers.add(layer)


def count_step(model: nn.Module) -> None:
    """Count a step of `model`'s optimiser that has just ended, for the adapters that have not counted it.

    Call it after every step of a training loop, and nowhere else.
    """
    for layer in model.modules():
        for name in _ramped(layer):
            watch = _watch(layer, name)
            if watch.counted == watch.reported and _trained(layer, name):
                _count(layer, name)
            watch.reported = watch.counted


def compare_values(layer: DualLoraLayer, name: str) -> None:
    """Before a forward pass in training mode: count a step that no hook has seen.

    Counts on the device of the factors, without a synchronisation of the GPU. Only the warning of the first
    such step needs one, so it is looked for at the 1st, 2nd, 4th, 8th comparison, and so on.
    """
    if torch.compiler.is_compiling():
        return
    watch = _watch(layer, name)
    if watch.hooked or watch.counted:
        return
    # Not the tensors of torch.func and of a replica, which no loop updates.
    factors = [f for f in _trained(layer, name) if isinstance(f, nn.Parameter) and f.device.type != "meta"]
    if not factors or (factors[0].is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    if watch.handle is None:
        watch.handle = factors[0].register_post_accumulate_grad_hook(
            lambda _: setattr(watch, "backward", True)
        )
    # In fp64, where even a small update of one element changes the sum. MPS has no fp64.
    precision = torch.float32 if factors[0].device.type == "mps" else torch.float64
    before, watch.values = watch.values, torch.stack([f.detach().sum(dtype=precision) for f in factors]).sum()
    if before is None or not watch.backward:
        return
    watch.backward = False
    watch.comparisons += 1
    changed = before != watch.values
    layer.dual_lora_step[name].add_(changed)
    if not _warned:
        watch.changed = changed if watch.changed is None else watch.changed | changed
        if watch.comparisons.bit_count() == 1 and watch.changed:
            _warn_once()


def _begin(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    _started[optimizer] = next(_clock)
    for layer, name in _held(optimizer):
        _watch(layer, name).hooked = True


def _end(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    started = _started.get(optimizer, 0)
    for layer, name in _held(optimizer):
        # An adapter that was counted since this step began was stepped by an optimiser inside this one.
        if _watch(layer, name).counted < started:
            _count(layer, name)


def _held(optimizer: Optimizer) -> Iterator[tuple[DualLoraLayer, str]]:
    """The adapters whose factors the optimiser holds."""
    if not _layers:
        return
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in _layers:
        for name in _ramped(layer):
            # Looks at one factor only, so that two optimisers that share an adapter's factors count once.
            if any(id(factor) in stepped for factor in _trained(layer, name)[:1]):
                yield layer, name


def _count(layer: Any, name: str) -> None:
    watch = _watch(layer, name)
    watch.counted = next(_clock)
    layer.dual_lora_step[name].add_(1)
    if watch.handle is not None:
        watch.handle.remove()


def _ramped(layer: Any) -> list[str]:
    return list(getattr(layer, "dual_lora_step", {}).keys())


def _trained(layer: Any, name: str) -> list[Tensor]:
    return [factor for factor in layer.factors(name).values() if factor.requires_grad]


def _watch(layer: Any, name: str) -> Watch:
    watch: Watch = layer.watches.setdefault(name, Watch())
    return watch


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "Dual LoRA: the adapter's factors change, but no optimiser step of theirs was seen. The warm-up "
            "ramp now counts each forward pass in training mode that finds them changed. To count steps "
            "exactly, call count_step(model) after each one, or give Trainer a RampCallback.",
            stacklevel=2,
        )


register_optimizer_step_pre_hook(_begin)
register_optimizer_step_post_hook(_end)
