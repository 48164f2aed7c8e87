"""A linear layer with Delta-LoRA.

After each optimiser step t > K the method adds lambda s (B_t A_t - B_{t-1} A_{t-1}) to the frozen weight.
These differences sum to lambda s (B_t A_t - B_K A_K), so the moved weight follows from the factors of now and
of step K. The layer keeps the latter as buffers and leaves W0 alone: what is trained and saved stays small,
a resumed or reloaded training is exact, and no rounding adds up in a weight that may be bf16.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.other import transpose
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from repro.adapters.delta_lora.config import DeltaLoraConfig


class DeltaLoraLinear(nn.Module, BaseTunerLayer):
    """y = (W0 + lambda s (B A - B_K A_K)) x + s B A x, with s = alpha / r; A: (r, k), B: (d, r).

    The first bracket is the frozen weight as it has moved, so the factors in it are constants in the backward
    pass. A and B start as in LoRA: B zero, A Kaiming-uniform. Up to step K they are copied to A_K and B_K,
    which makes the difference zero and the layer LoRA's.

    Whoever trains the layer calls `count_step` after every optimiser step.
    """

    adapter_layer_names = ("delta_lora_A", "delta_lora_B")
    other_param_names = (
        "scaling",
        "update_ratio",
        "start_step",
        "delta_lora_step",
        "delta_lora_start_A",
        "delta_lora_start_B",
    )

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: DeltaLoraConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        linear = self.get_base_layer()
        if not isinstance(linear, nn.Linear | Conv1D):
            raise ValueError(f"Delta-LoRA adapts torch.nn.Linear and Conv1D (got {type(linear).__name__})")
        self.fan_in_fan_out = isinstance(linear, Conv1D)
        self.out_features, self.in_features = transpose(linear.weight, self.fan_in_fan_out).shape
        self.delta_lora_A = nn.ParameterDict()
        self.delta_lora_B = nn.ParameterDict()
        self.delta_lora_start_A = BufferDict(persistent=True)
        self.delta_lora_start_B = BufferDict(persistent=True)
        self.delta_lora_step = BufferDict(persistent=True)
        self.scaling: dict[str, float] = {}
        self.update_ratio: dict[str, float] = {}
        self.start_step: dict[str, int] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: DeltaLoraConfig) -> None:
        """Add an adapter under a name."""
        A, B = torch.empty(config.r, self.in_features), torch.zeros(self.out_features, config.r)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        self.delta_lora_A[adapter_name], self.delta_lora_B[adapter_name] = nn.Parameter(A), nn.Parameter(B)
        self.delta_lora_start_A[adapter_name], self.delta_lora_start_B[adapter_name] = A.clone(), B.clone()
        self.delta_lora_step[adapter_name] = torch.zeros((), dtype=torch.int64)
        self.scaling[adapter_name] = config.alpha / config.r
        self.update_ratio[adapter_name] = config.update_ratio
        self.start_step[adapter_name] = config.start_step
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    @torch.no_grad()
    def count_step(self) -> None:
        """Count an optimiser step of the active adapters; the factors of the K-th are kept."""
        for name in self._owned(self.active_adapters):
            step = self.delta_lora_step[name].add_(1)
            if step <= self.start_step[name]:
                self.delta_lora_start_A[name].copy_(self.delta_lora_A[name])
                self.delta_lora_start_B[name].copy_(self.delta_lora_B[name])

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self._owned(self.active_adapters):
            A, B = self.delta_lora_A[name], self.delta_lora_B[name]
            inputs = self._cast_input_dtype(x, A.dtype)
            moved = _product(inputs, A.detach(), B.detach())
            moved = moved - _product(inputs, self.delta_lora_start_A[name], self.delta_lora_start_B[name])
            update = _product(inputs, A, B) + self.update_ratio[name] * moved
            result = result + (self.scaling[name] * update).to(result.dtype)
        return result

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What is added to W0, its movement included, in the orientation of the base layer's weight."""
        product = self.delta_lora_B[adapter] @ self.delta_lora_A[adapter]
        moved = product - self.delta_lora_start_B[adapter] @ self.delta_lora_start_A[adapter]
        delta = self.scaling[adapter] * (product + self.update_ratio[adapter] * moved)
        return transpose(delta.detach(), self.fan_in_fan_out)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' updates (default: the active ones') to the base weight.

        `safe_merge` raises ValueError, and changes nothing, where the result would not be finite.
        """
        for name in self._owned(check_adapters_to_merge(self, adapter_names)):
            base: Any = self.get_base_layer()
            merged = (base.weight.data + self.get_delta_weight(name)).to(base.weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"Merging {name} gives weights that are not finite: the adapter is broken.")
            base.weight.data = merged
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Subtract the merged adapters' updates again, up to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            base: Any = self.get_base_layer()
            delta = self.get_delta_weight(self.merged_adapters.pop())
            base.weight.data = (base.weight.data - delta).to(base.weight.dtype)

    def _owned(self, adapter_names: list[str]) -> list[str]:
        return [name for name in adapter_names if name in self.delta_lora_A]


def _product(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return F.linear(F.linear(x, A), B)
