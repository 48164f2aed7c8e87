"""Replaces the targeted layers and parameters of a model by Dual LoRA layers."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from ..model import AdapterModel
from .conv import Conv
from .embedding import Embedding
from .layer import DualLoraLayer, Linear
from .parameters import ParamWrapper


class DualLoraModel(AdapterModel):
    """A model with Dual LoRA in some of its layers; `get_peft_model` builds it from a `DualLoraConfig`."""

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
        nested = isinstance(target, ParamWrapper) and adapter_name in target.dual_lora_A
        if isinstance(target, DualLoraLayer) and not nested:
            target.update_layer(adapter_name, ranks, alpha, peft_config)
            return
        options = get_quantization_kwargs(self.model)
        kind: type[DualLoraLayer] = ParamWrapper
        if parameter_name is None:
            kind = _layer_class(target, current_key, **options)
        else:
            options["parameter_name"] = parameter_name
        layer = kind(target, adapter_name, ranks, alpha, peft_config, **options)
        self._replace_module(parent, target_name, layer, target)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_parameters and model_config["model_type"] not in self.target_module_mapping:
            return peft_config
        return super()._prepare_adapter_config(peft_config, model_config)

    def _check_new_adapter_config(self, config: Any) -> None:
        super()._check_new_adapter_config(config)
        # A module's wrappers are nested, and files name an adapter's factors by their place in the nest.
        configs: dict[str, Any] = dict(self.peft_config)
        named = {name: sorted(c.target_parameters) for name, c in configs.items() if c.target_parameters}
        if any(parameters != next(iter(named.values())) for parameters in named.values()):
            raise ValueError(f"All adapters of a model must have the same target_parameters (got {named}).")


def _layer_class(target: Any, name: str, **quantization: Any) -> type[DualLoraLayer]:
    layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    backend = resolve_quantization_backend(layer, **quantization)
    if backend is not None:
        if not backend.supports_merge:
            raise ValueError(
                f"{name}: Dual LoRA needs the weight itself, which {backend.backend_name} cannot unpack. "
                "Load the model with another quantisation, or without."
            )
        if backend.layer_type == "linear":
            return Linear
    elif isinstance(layer, NonDynamicallyQuantizableLinear):
        raise ValueError(f"{name}: torch.nn.MultiheadAttention reads this weight past any adapter.")
    elif isinstance(layer, nn.Embedding):
        for setting in ("max_norm", "sparse"):
            if value := getattr(layer, setting):
                raise ValueError(f"{name}: Dual LoRA cannot adapt an Embedding with {setting}={value!r}.")
        return Embedding
    elif isinstance(layer, nn.Linear | Conv1D):
        return Linear
    elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return Conv
    raise ValueError(
        f"{name} is a {type(layer).__name__}: Dual LoRA adapts nn.Linear, nn.Embedding, nn.Conv1d to Conv3d "
        "and transformers' Conv1D. Parameters of other modules can be named in target_parameters."
    )
