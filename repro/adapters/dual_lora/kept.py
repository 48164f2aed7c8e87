"""W0 + dW kept for one optimiser step, so that its passes build it once.

Under gradient accumulation, and under gradient checkpointing, a layer's forward pass runs several times with
the same factors, and each backward pass needs W0 + dW too. Keeping it takes the memory of the adapted
weights once more, in the precision of the input. A quantised weight is also unpacked only once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class KeptWeight:
    """The place of one layer's W0 + dW, filled by its first forward pass."""

    def __init__(self) -> None:
        self.weight: Tensor | None = None

    def get(self, dtype: torch.dtype) -> Tensor | None:
        """The weight, if there is one of this dtype."""
        return self.weight if self.weight is not None and self.weight.dtype == dtype else None


class KeptWeights:
    """The kept weights of one layer, by adapters and mode."""

    def __init__(self) -> None:
        self._places: dict[Any, tuple[list[tuple[Tensor, int]], KeptWeight]] = {}

    def place(self, key: Any, tensors: Sequence[Tensor]) -> KeptWeight:
        """The place for `key`: a new one for other tensors, or after one of them has changed."""
        made_of, place = self._places.get(key, ([], None))
        same = len(made_of) == len(tensors) and all(
            before is now and version == now._version
            for (before, version), now in zip(made_of, tensors, strict=True)
        )
        if place is None or not same:
            place = KeptWeight()
            self._places[key] = [(tensor, tensor._version) for tensor in tensors], place
        return place

    def clear(self) -> None:
        """Free the weights; a backward pass that comes later builds them again."""
        for _, place in self._places.values():
            place.weight = None


@contextmanager
def kept_weights(model: nn.Module) -> Iterator[None]:
    """Keep W0 + dW of the model's linear Dual LoRA layers in here: around the passes of one optimiser step.

    Built again after a factor or the weight changes in place. Not for the passes of a compiled model or of
    a CUDA graph, which build it anew each time.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "kept_weights")]
    for layer in layers:
        layer.kept_weights = KeptWeights()
    try:
        yield
    finally:
        for layer in layers:
            layer.kept_weights.clear()
            layer.kept_weights = None
