"""The base class of the adapted layers of all tuners in this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

BASE = "__base__"  # peft's word, among the adapters of a batch, for none


class AdapterLayer(BaseTunerLayer):
    """A layer whose adapters live on the device of the base layer and keep their own precision.

    Each adapter has a parameter in the first of `adapter_layer_names`.
    """

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
        if hasattr(self.weight, "device_mesh"):
            raise NotImplementedError(
                f"{type(self).__name__} needs the whole weight of its layer (got a DTensor, a part of it, as "
                "under tensor parallelism). Use Dual LoRA on linear layers, or shard the model with FSDP."
            )

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, None]:
        # Without a dtype, peft moves parameters to the base layer's device but keeps them in fp32. In bf16,
        # with its 8 significant bits, small optimiser steps would be lost.
        device, _ = super()._get_base_layer_device_and_dtype(base_layer)
        # A block of layers has no weight itself, so peft finds no device.
        return device or next(base_layer.parameters()).device, None

    def under_adapters(
        self,
        forward: Callable[[list[str], Tensor], Tensor],
        x: Tensor,
        adapter_names: Sequence[str] | None = None,
    ) -> Tensor:
        """`forward(names, x)` with the names of the active adapters that the layer has and has not merged.

        Args:
            adapter_names: an adapter for each row of x, or `__base__`. `forward` then runs once for each
                adapter, on its rows.
        """
        if self.disable_adapters:
            return forward([], x)
        if adapter_names is None:
            return forward([] if self.merged else self._owned(self.active_adapters), x)
        if self.merged:
            raise ValueError("adapter_names is not possible over merged adapters; unmerge them first.")
        if len(x) != len(adapter_names):
            raise ValueError(
                f"adapter_names has {len(adapter_names)} names, but a layer's input has {len(x)} rows; it "
                "needs one name for each."
            )
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(adapter_names):
            rows.setdefault(name, []).append(row)
        parts = [forward(self._owned([name]), x[chosen]) for name, chosen in rows.items()]
        order = torch.tensor([row for chosen in rows.values() for row in chosen], device=x.device)
        return torch.cat(parts)[order.argsort()]

    def _owned(self, adapter_names: Sequence[str]) -> list[str]:
        return [name for name in adapter_names if name in getattr(self, self.adapter_layer_names[0])]
