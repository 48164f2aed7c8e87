"""The base classes of the adapted layers and models of all tuners in this package."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn


class AdapterLayer(BaseTunerLayer):
    """A layer whose adapters live on the device of the base layer and keep their own precision."""

    # What peft's `disable_input_dtype_casting` switches off.
    cast_input_dtype_enabled = True

    def finish_adapter(self, adapter_name: str) -> None:
        """Give a new adapter the device and the training flag of its layer, and gradients if it is active."""
        self._move_adapter_to_device_of_base_layer(adapter_name)
        layer: Any = self
        layer.training = layer.base_layer.training
        for child in layer.children():
            if child is not layer.base_layer:
                child.train(layer.training)
        self.set_adapter(self.active_adapters)

    def cast_to_base_dtype(self, adapter_name: str) -> None:
        """Give an adapter's parameters and real buffers the dtype of the base layer, if that is real."""
        base: Any = self.get_base_layer()
        _, dtype = super()._get_base_layer_device_and_dtype(base)
        dtype = dtype or next(base.parameters()).dtype
        if not dtype.is_floating_point:
            return
        for group in (*self.adapter_layer_names, *self.other_param_names):
            entries: Any = getattr(self, group, None)
            if (
                not isinstance(entries, nn.ModuleDict | nn.ParameterDict | BufferDict)
                or adapter_name not in entries
            ):
                continue
            entry: Any = entries[adapter_name]
            if isinstance(entry, nn.Module):
                entry.to(dtype)
            elif isinstance(entry, nn.Parameter):
                entries[adapter_name] = nn.Parameter(entry.detach().to(dtype), entry.requires_grad)  # type: ignore[assignment]
            elif entry.is_floating_point():
                entries[adapter_name] = entry.to(dtype)

    def check_whole(self) -> None:
        """Raises NotImplementedError where the base weight is split over processes in a forward pass."""
        base: Any = self.get_base_layer()
        if hasattr(base.weight, "device_mesh"):
            raise NotImplementedError(
                f"{type(self).__name__} needs the whole weight of its layer (got a DTensor, a part of it, as "
                "under tensor parallelism). Use Dual LoRA, or shard the model with FSDP."
            )

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, None]:
        # Without a dtype, peft moves parameters to the base layer's device but keeps them in fp32. In bf16,
        # with its 8 significant bits, small optimiser steps would be lost.
        device, _ = super()._get_base_layer_device_and_dtype(base_layer)
        # A block of layers has no weight itself, so peft finds no device.
        return device or next(base_layer.parameters()).device, None


class AdapterModel(BaseTuner):
    """A model with adapters in fp32 or, with `autocast_adapter_dtype=False`, in the dtype of its layers."""

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            for layer in self.model.modules():
                if isinstance(layer, AdapterLayer):
                    layer.cast_to_base_dtype(adapter_name)
