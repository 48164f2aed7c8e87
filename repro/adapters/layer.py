"""The base class of the adapted layers of all tuners in this package."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


class AdapterLayer(BaseTunerLayer):
    """A layer whose adapters live on the device of the base layer and keep their own precision."""

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, None]:
        # Without a dtype, peft moves parameters to the base layer's device but keeps them in fp32. In bf16,
        # with its 8 significant bits, small optimiser steps would be lost.
        device, _ = super()._get_base_layer_device_and_dtype(base_layer)
        # A block of layers has no weight itself, so peft finds no device.
        return device or next(base_layer.parameters()).device, None
