"""A linear layer with a bottleneck adapter in parallel."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from repro.adapters.bottleneck.config import BottleneckConfig

NOT_MERGEABLE = (
    "a bottleneck adapter is not linear in its input, so it cannot be merged into a weight; keep it unmerged"
)


class ParallelBottleneck(nn.Module, BaseTunerLayer):
    """y = W0 x + scaling * U tanh(D x), with D: (b, in_features) and U: (out_features, b), both without bias.

    The "Parallel" adapter of LLM-Adapters (Hu et al., 2023). As there, D and U both start as N(0, 0.02^2), so
    the start is near the base function and not equal to it.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_size", "scaling")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        linear = self.get_base_layer()
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"a bottleneck adapter needs a torch.nn.Linear (got {type(linear).__name__})")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_size: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter under a name."""
        size = config.bottleneck_size
        down = nn.Linear(self.in_features, size, bias=False)
        up = nn.Linear(size, self.out_features, bias=False)
        for projection in (down, up):
            nn.init.normal_(projection.weight, std=config.init_std)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_size[adapter_name], self.scaling[adapter_name] = size, config.scaling
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down, up = self.bottleneck_down[name], self.bottleneck_up[name]
            inputs = self._cast_input_dtype(x, self.bottleneck_down[name].weight.dtype)  # type: ignore[arg-type]
            hidden = torch.tanh(down(self.bottleneck_dropout[name](inputs)))
            result = result + (self.scaling[name] * up(hidden)).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused with a `ValueError`."""
        raise ValueError(NOT_MERGEABLE)
