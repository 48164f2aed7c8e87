"""The layer that replaces a linear one under FLoRA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.adapters.additive import AdditiveLayer
from repro.adapters.flora.config import FloraConfig


class FloraLayer(AdditiveLayer):
    """A linear layer plus (alpha / r) B E A."""

    flora_A: nn.ParameterDict
    flora_E: nn.ParameterDict
    flora_B: nn.ParameterDict
    adapter_layer_names = ("flora_A", "flora_E", "flora_B")

    def initial_parameters(self, config: FloraConfig) -> tuple[Tensor, Tensor, Tensor]:
        A = config.init_std * torch.randn(config.rank, self.in_features)
        B = config.init_std * torch.randn(self.out_features, config.rank)
        return A, torch.zeros(config.rank, config.rank), B

    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        config = self.adapter_config[adapter_name]
        A, E, B = (group[adapter_name] for group in (self.flora_A, self.flora_E, self.flora_B))
        return config.alpha / config.rank * F.linear(F.linear(F.linear(x, A), E), B)
