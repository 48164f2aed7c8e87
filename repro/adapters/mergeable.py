"""Merging adapters into the weight of their layer, and unmerging them."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .layer import AdapterLayer


class MergeableLayer(nn.Module, AdapterLayer):
    """A linear layer (quantised or not) or Conv1D whose adapters can be merged into its weight.

    The weight is (d, k) = (out_features, in_features); a Conv1D stores it as (k, d).
    """

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        layer: Any = self.get_base_layer()
        self.fan_in_fan_out = isinstance(layer, Conv1D)
        self.out_features, self.in_features = self.matrix_shape(layer)
        self.quantization_backend = resolve_quantization_backend(layer, **kwargs)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._unmerged_weight: Tensor | None = None

    def matrix_shape(self, layer: Any) -> tuple[int, int]:
        """(d, k) of the weight of `layer`."""
        if isinstance(layer, Conv1D):
            k, d = layer.weight.shape
            return d, k
        return layer.out_features, layer.in_features

    @abstractmethod
    def forward_with(self, adapter_names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The output under these adapters, each of which the layer has."""

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """The output under the active adapters, or under those that `adapter_names` gives row by row."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        return self.under_adapters(
            lambda names, rows: self.forward_with(names, rows, *args, **kwargs), x, adapter_names
        )

    @abstractmethod
    def updated_weight(self, weight: Tensor, adapter_names: list[str]) -> Tensor:
        """`weight`, as the base layer stores it, plus the updates of these adapters, rounded to its dtype."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the updates of these adapters (default: the active ones) into the base weight, in full.

        With `safe_merge`, raises ValueError and changes nothing if the result would not be finite.
        """
        new = self._owned(check_adapters_to_merge(self, adapter_names))
        if not new:
            return
        # Kept for `unmerge`: subtracting dW would not restore the same bits.
        original = self.get_base_weight() if self._unmerged_weight is None else self._unmerged_weight
        merged = self.updated_weight(original, self.merged_adapters + new)
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(
                # Begins as peft's own message, which callers match.
                f"NaNs detected in the merged weights. The adapter {', '.join(new)} seems to be broken: it "
                "has NaN or too large values. Use an earlier checkpoint."
            )
        self._unmerged_weight = original
        self.set_base_weight(merged)
        self.merged_adapters.extend(new)

    def unmerge(self) -> None:
        """Restore the base weight, bit for bit; a quantised weight is quantised again."""
        if self._unmerged_weight is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.set_base_weight(self._unmerged_weight.to(self.weight.device))
        self._unmerged_weight = None
        self.merged_adapters.clear()
