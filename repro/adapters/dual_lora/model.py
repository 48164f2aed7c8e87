"""Finds the layers to adapt and puts Dual LoRA's in their places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from .config import DualLoraConfig
from .layer import DualLoraLayer, Linear


class DualLoraModel(BaseTuner):
    """A model with Dual LoRA in its linear layers. Made by `get_peft_model` from a `DualLoraConfig`."""

    prefix = "dual_lora_"
    tuner_layer_cls = DualLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: DualLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        ranks_key = get_pattern_key(peft_config.rank_pattern, current_key)
        ranks = peft_config.rank_pattern.get(ranks_key, (peft_config.magnitude_rank, peft_config.direction_rank))
        alpha_key = get_pattern_key(peft_config.alpha_pattern, current_key)
        alpha = peft_config.alpha_pattern.get(alpha_key, peft_config.alpha)

        if isinstance(target, DualLoraLayer):
            target.update_layer(adapter_name, ranks, alpha, peft_config)
            return
        quantization = get_quantization_kwargs(self.model)
        _check_layer(target, current_key, **quantization)
        layer = Linear(target, adapter_name, ranks, alpha, peft_config, **quantization)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # an additional adapter trains only once it is made active
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "adapter_names is not possible for Dual LoRA: its update is part of the weight, which is one for the "
                "whole batch. Pass one batch for each adapter, with set_adapter in between."
            )
        yield


def _check_layer(target: nn.Module, name: str, **quantization: Any) -> None:
    layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    backend = resolve_quantization_backend(layer, **quantization)
    if backend is not None and not backend.supports_merge:
        raise ValueError(f"{name}: Dual LoRA needs the weight, and {backend.backend_name} cannot unpack it.")
    if not isinstance(layer, nn.Linear | Conv1D) and (backend is None or backend.layer_type != "linear"):
        raise ValueError(f"{name} is a {type(layer).__name__}; Dual LoRA adapts nn.Linear and transformers' Conv1D only.")
