"""Modules with a bottleneck adapter: a linear layer with one in parallel, a block with one after it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from repro.adapters.bottleneck.config import BottleneckConfig
from repro.adapters.layer import AdapterLayer

NOT_MERGEABLE = (
    "a bottleneck adapter is not linear in its input, so it cannot be merged into a weight; keep it unmerged"
)


class BottleneckLayer(nn.Module, AdapterLayer):
    """Base class of both placements: the projections D: (b, in_features) and U: (out_features, b).

    Their weights start as N(0, init_std^2), as in both sources, so the initial model is close to the base
    model but not equal to it.

    Attributes:
        biased: whether D and U have biases, which start at zero.
    """

    biased: ClassVar[bool]
    adapter_layer_names = ("bottleneck_down", "bottleneck_up", "bottleneck_norm")
    other_param_names = ("bottleneck_dropout", "bottleneck_size", "scaling")

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: BottleneckConfig,
        in_features: int,
        out_features: int,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = in_features, out_features
        self.bottleneck_norm = nn.ModuleDict()
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_size: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    @abstractmethod
    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        """The output of an adapter, before scaling."""

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter under a name."""
        size = config.bottleneck_size
        down = nn.Linear(self.in_features, size, bias=self.biased)
        up = nn.Linear(size, self.out_features, bias=self.biased)
        for projection in (down, up):
            nn.init.normal_(projection.weight, std=config.init_std)
            if self.biased:
                nn.init.zeros_(projection.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_size[adapter_name], self.scaling[adapter_name] = size, config.scaling
        self.finish_adapter(adapter_name)

    def plus_adapters(self, adapter_names: list[str], result: Tensor, x: Tensor) -> Tensor:
        """`result` plus the scaled outputs of these adapters for `x`."""
        for name in adapter_names:
            inputs = self._cast_input_dtype(x, self.bottleneck_down[name].weight.dtype)  # type: ignore[arg-type]
            result = result + (self.scaling[name] * self.adapter_output(inputs, name)).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: the adapter is not linear."""
        raise ValueError(NOT_MERGEABLE)


class ParallelBottleneck(BottleneckLayer):
    """y = W0 x + scaling * U tanh(D x), the "Parallel" adapter of LLM-Adapters (Hu et al., 2023)."""

    biased = False

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        linear = base_layer.get_base_layer() if isinstance(base_layer, BaseTunerLayer) else base_layer
        if isinstance(linear, Conv1D):
            in_features, out_features = linear.weight.shape
        elif isinstance(linear, nn.Linear):
            in_features, out_features = linear.in_features, linear.out_features
        else:
            kind = type(linear).__name__
            raise ValueError(f"a bottleneck adapter needs a torch.nn.Linear or Conv1D (got {kind})")
        super().__init__(base_layer, adapter_name, config, in_features, out_features)

    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        hidden = torch.tanh(self.bottleneck_down[adapter_name](self.bottleneck_dropout[adapter_name](x)))
        output: Tensor = self.bottleneck_up[adapter_name](hidden)
        return output

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        if not self.disable_adapters:
            self.check_whole()
        return self.under_adapters(
            lambda names, rows: self.plus_adapters(names, self.base_layer(rows, *args, **kwargs), rows),
            x,
            adapter_names,
        )


class SerialBottleneck(BottleneckLayer):
    """x + scaling * U relu(D LN(x)) on the hidden states x that a block returns.

    The adapter of Lin et al. (2020). As in the authors' `modeling_vlm.py` it follows the MLP's residual
    connection, so x is the residual stream, not the MLP's output. Each adapter has its own LayerNorm. The
    block must return only its hidden states, as in GPT-2 and LLaMA.
    """

    biased = True

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, width: int
    ) -> None:
        super().__init__(base_layer, adapter_name, config, width, width)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter under a name."""
        self.bottleneck_norm[adapter_name] = nn.LayerNorm(self.in_features)
        super().update_layer(adapter_name, config)

    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        inputs = self.bottleneck_dropout[adapter_name](self.bottleneck_norm[adapter_name](x))
        hidden = torch.relu(self.bottleneck_down[adapter_name](inputs))
        output: Tensor = self.bottleneck_up[adapter_name](hidden)
        return output

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        hidden_states: Tensor = self.base_layer(*args, **kwargs)
        if not isinstance(hidden_states, Tensor):
            raise TypeError(
                "a serial bottleneck needs a block that returns only its hidden states "
                f"({type(self.base_layer).__name__} returned a {type(hidden_states).__name__})"
            )
        return self.under_adapters(
            lambda names, rows: self.plus_adapters(names, rows, rows), hidden_states, adapter_names
        )
