"""Base classes of tuners whose adapters add a linear map f of a linear layer's input: y = W0 x + f(x).

A tuner has a configuration, a layer that defines the adapter's parameters and f, and a model that names
both. dW, merging, and adding and deleting adapters follow from f.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, get_quantization_kwargs
from peft.utils.other import transpose
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from repro.adapters.mergeable import MergeableLayer
from repro.adapters.model import AdapterModel
from repro.adapters.targets import TargetConfig


@dataclass
class AdditiveConfig(TargetConfig):
    """Settings that all these tuners share.

    Args:
        dropout: on the adapter's input, in training.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save: see
            `TargetConfig`.
    """

    dropout: float = 0.0


class AdditiveLayer(MergeableLayer):
    """A torch.nn.Linear or transformers' Conv1D with weight (d, k) = (out, in), and its adapters.

    A subclass lists its parameters in `adapter_layer_names` (each a ParameterDict, by adapter) and what is
    saved but not trained in `adapter_buffer_names` (each a BufferDict). The buffers also belong into
    `other_param_names`, which peft uses to delete an adapter.
    """

    adapter_buffer_names: tuple[str, ...] = ()
    other_param_names: tuple[str, ...] = ("adapter_config", "adapter_dropout")

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: AdditiveConfig, **quantization: Any
    ) -> None:
        linear = base_layer.get_base_layer() if isinstance(base_layer, BaseTunerLayer) else base_layer
        if not isinstance(linear, nn.Linear | Conv1D):
            raise ValueError(
                f"{type(self).__name__} needs a torch.nn.Linear or Conv1D (got {type(linear).__name__})"
            )
        super().__init__(base_layer, **quantization)
        for group in self.adapter_layer_names:
            setattr(self, group, nn.ParameterDict())
        for group in self.adapter_buffer_names:
            setattr(self, group, BufferDict(persistent=True))
        self.adapter_config: dict[str, Any] = {}
        self.adapter_dropout = nn.ModuleDict()
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    @abstractmethod
    def initial_parameters(self, config: Any) -> tuple[Tensor, ...]:
        """The initial parameters of a new adapter, in the order of `adapter_layer_names`."""

    def initial_buffers(self, adapter_name: str) -> tuple[Tensor, ...]:
        """The initial buffers, in the order of `adapter_buffer_names`."""
        return ()

    @abstractmethod
    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        """f(x), of shape (..., d), for x of shape (..., k)."""

    def update_layer(self, adapter_name: str, config: AdditiveConfig) -> None:
        """Add an adapter under a name."""
        for group, start in zip(self.adapter_layer_names, self.initial_parameters(config), strict=True):
            getattr(self, group)[adapter_name] = nn.Parameter(start)
        self.adapter_config[adapter_name] = config
        self.adapter_dropout[adapter_name] = nn.Dropout(config.dropout)
        for group, start in zip(self.adapter_buffer_names, self.initial_buffers(adapter_name), strict=True):
            getattr(self, group)[adapter_name] = start
        self.finish_adapter(adapter_name)

    def forward_with(self, adapter_names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        for name in adapter_names:
            self.check_whole()
            # Also under peft's `disable_input_dtype_casting`, for hooks that cast weights in their module's
            # forward pass: an adapter's parameters are in no such module.
            inputs = self.adapter_dropout[name](x.to(self._some_parameter(name).dtype))
            result = result + self.adapter_output(inputs, name).to(result.dtype)
        return result

    def get_delta_weight(self, adapter: str) -> Tensor:
        """dW in the dtype of the adapter and the orientation of the base layer's weight."""
        parameter = self._some_parameter(adapter)
        with torch.no_grad():
            unit_vectors = torch.eye(self.in_features, dtype=parameter.dtype, device=parameter.device)
            return transpose(self.adapter_output(unit_vectors, adapter).t(), self.fan_in_fan_out)

    def updated_weight(self, weight: Tensor, adapter_names: list[str]) -> Tensor:
        total = weight
        for name in adapter_names:
            total = total + self.get_delta_weight(name)
        return total.to(weight.dtype)

    def _some_parameter(self, adapter_name: str) -> Tensor:
        parameter: Tensor = getattr(self, self.adapter_layer_names[0])[adapter_name]
        return parameter


class AdditiveModel(AdapterModel):
    """A model with additive adapters; a subclass sets `tuner_layer_cls` to its `AdditiveLayer`."""

    tuner_layer_cls: type[AdditiveLayer]
    target_module_mapping: dict[str, Any] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: AdditiveConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
        else:
            quantization = get_quantization_kwargs(self.model)
            layer = self.tuner_layer_cls(target, adapter_name, peft_config, **quantization)
            self._replace_module(parent, target_name, layer, target)
