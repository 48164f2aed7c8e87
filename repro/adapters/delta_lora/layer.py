"""A linear layer with Delta-LoRA.

After each optimiser step t > K the method adds lambda s (B_t A_t - B_{t-1} A_{t-1}) to the frozen weight.
These differences sum to lambda s (B_t A_t - B_K A_K), so the moved weight follows from the current factors
and those of step K. The layer keeps the latter as buffers and does not change W0. So checkpoints stay small,
resuming is exact, and no rounding errors add up in a bf16 weight.
"""

from __future__ import annotations

import math

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn
from torch.nn import functional as F

from repro.adapters.additive import AdditiveLayer
from repro.adapters.delta_lora.config import DeltaLoraConfig


class DeltaLoraLayer(AdditiveLayer):
    """y = (W0 + lambda s (B A - B_K A_K)) x + s B A x, with s = alpha / r; A: (r, k), B: (d, r).

    The first bracket is the moved frozen weight, so its factors are constants in the backward pass. A and B
    start as in LoRA: B zero, A Kaiming-uniform. Up to step K they are copied to A_K and B_K, so the
    difference is zero and the layer equals LoRA's.

    The training loop must call `count_step` after every optimiser step.
    """

    delta_lora_A: nn.ParameterDict
    delta_lora_B: nn.ParameterDict
    delta_lora_step: BufferDict
    delta_lora_start_A: BufferDict
    delta_lora_start_B: BufferDict
    adapter_layer_names = ("delta_lora_A", "delta_lora_B")
    adapter_buffer_names = ("delta_lora_step", "delta_lora_start_A", "delta_lora_start_B")
    other_param_names = (*AdditiveLayer.other_param_names, *adapter_buffer_names)

    def initial_parameters(self, config: DeltaLoraConfig) -> tuple[Tensor, Tensor]:
        A = torch.empty(config.rank, self.in_features)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        return A, torch.zeros(self.out_features, config.rank)

    def initial_buffers(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
        factors = self.delta_lora_A[adapter_name].detach(), self.delta_lora_B[adapter_name].detach()
        # With `low_cpu_mem_usage` parameters are empty until they are loaded. peft cannot move empty buffers.
        A, B = (torch.zeros_like(f, device="cpu") if f.is_meta else f.clone() for f in factors)
        return torch.zeros((), dtype=torch.int64), A, B

    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        config = self.adapter_config[adapter_name]
        A, B = self.delta_lora_A[adapter_name], self.delta_lora_B[adapter_name]
        started = _product(x, self.delta_lora_start_A[adapter_name], self.delta_lora_start_B[adapter_name])
        moved = _product(x, A.detach(), B.detach()) - started
        return config.alpha / config.rank * (_product(x, A, B) + config.update_ratio * moved)

    @torch.no_grad()
    def count_step(self) -> None:
        """Count an optimiser step of the active adapters, and keep the factors of step K."""
        for name in self._owned(self.active_adapters):
            step = self.delta_lora_step[name].add_(1)
            if step <= self.adapter_config[name].start_step:
                self.delta_lora_start_A[name].copy_(self.delta_lora_A[name])
                self.delta_lora_start_B[name].copy_(self.delta_lora_B[name])


def _product(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return F.linear(F.linear(x, A), B)
