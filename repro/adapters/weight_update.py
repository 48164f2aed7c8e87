"""The update dW that an adapter adds to its layer's weight, for adapters of peft and of this package."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from peft.tuners.hira.layer import HiraLayer
from torch import Tensor, nn


def updated_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers whose adapter has a dW, each with its path in the base model."""
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            yield name.removeprefix("base_model.model."), layer


def weight_update(layer: Any) -> Tensor:
    """dW of the layer's active adapter, in the orientation of the weight and the dtype of the adapter.

    peft's `get_delta_weight` is not always dW: HiRA's lacks the product with W0, DoRA's the rescaling of W0's
    rows. DoRA's dW is computed as a difference of two weights: at step 0 it is a rounding error, not zero.
    """
    (adapter,) = layer.active_adapters
    with torch.no_grad():
        if adapter in getattr(layer, "lora_variant", {}):
            merged = deepcopy(layer).to(layer.lora_A[adapter].weight.dtype)
            before: Tensor = merged.get_base_layer().weight.clone()
            merged.merge(adapter_names=[adapter])
            after: Tensor = merged.get_base_layer().weight
            return after - before
        delta: Tensor = layer.get_delta_weight(adapter)
        if isinstance(layer, HiraLayer):
            base: Any = layer.get_base_layer()
            delta = delta * base.weight
        return delta
