"""Replaces the targeted layers of a model by Dual LoRA layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..layer import AdapterModel
from .layer import DualLoraLayer, Linear


class DualLoraModel(AdapterModel):
    """A model with Dual LoRA in its linear layers; `get_peft_model` builds it from a `DualLoraConfig`."""

    prefix = "dual_lora_"
    tuner_layer_cls = DualLoraLayer
    target_module_mapping: dict[str, Any] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        ranks, alpha = peft_config.ranks_and_alpha(current_key)
        if isinstance(target, DualLoraLayer):
            target.update_layer(adapter_name, ranks, alpha, peft_config)
            return
        quantization = get_quantization_kwargs(self.model)
        _check_layer(target, current_key, **quantization)
        layer = Linear(target, adapter_name, ranks, alpha, peft_config, **quantization)
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if (names := kwargs.get("adapter_names")) is not None:
            raise ValueError(
                f"adapter_names={names!r} is not possible: Dual LoRA changes the weight, which all examples "
                "of a batch share. Run one batch for each adapter, after set_adapter."
            )
        yield


def _check_layer(target: Any, name: str, **quantization: Any) -> None:
    layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    backend = resolve_quantization_backend(layer, **quantization)
    if backend is not None and not backend.supports_merge:
        raise ValueError(
            f"{name}: Dual LoRA needs the weight itself, which {backend.backend_name} cannot unpack. "
            "Load the model with another quantisation, or without."
        )
    if not isinstance(layer, nn.Linear | Conv1D) and (backend is None or backend.layer_type != "linear"):
        raise ValueError(f"{name} is a {type(layer).__name__}: Dual LoRA adapts nn.Linear and Conv1D only.")
