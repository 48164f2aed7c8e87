"""The tuner that places bottleneck adapters in a model."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from repro.adapters.bottleneck.config import BottleneckConfig
from repro.adapters.bottleneck.layer import NOT_MERGEABLE, ParallelBottleneck


class BottleneckModel(BaseTuner):
    """Adapts every targeted linear layer of a model by a `ParallelBottleneck`."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = ParallelBottleneck
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
        if isinstance(target, ParallelBottleneck):
            target.update_layer(adapter_name, peft_config)
            return
        layer = ParallelBottleneck(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NOT_MERGEABLE)
