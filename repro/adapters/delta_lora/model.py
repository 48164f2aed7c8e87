"""The tuner that places Delta-LoRA in a model."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from repro.adapters.delta_lora.config import DeltaLoraConfig
from repro.adapters.delta_lora.layer import DeltaLoraLinear


class DeltaLoraModel(BaseTuner):
    """Adapts every targeted linear layer of a model by a `DeltaLoraLinear`."""

    prefix: str = "delta_lora_"
    tuner_layer_cls = DeltaLoraLinear
    target_module_mapping: dict[str, Any] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: DeltaLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, DeltaLoraLinear):
            target.update_layer(adapter_name, peft_config)
            return
        layer = DeltaLoraLinear(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)
