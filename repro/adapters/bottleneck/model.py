"""The tuner that places bottleneck adapters in a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from repro.adapters.bottleneck.config import BottleneckConfig
from repro.adapters.bottleneck.layer import (
    NOT_MERGEABLE,
    BottleneckLayer,
    ParallelBottleneck,
    SerialBottleneck,
)
from repro.adapters.layer import AdapterModel


class BottleneckModel(AdapterModel):
    """A model with a parallel bottleneck at each targeted linear layer, or a serial one after each block."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {"llama": ["up_proj", "down_proj"]}

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer: BottleneckLayer
        if peft_config.placement == "parallel":
            layer = ParallelBottleneck(target, adapter_name, peft_config)
        else:
            layer = SerialBottleneck(target, adapter_name, peft_config, self.model.config.hidden_size)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        if isinstance(child, BottleneckLayer):
            # On unloading, peft would copy a weight, which a block does not have.
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NOT_MERGEABLE)
