"""What every adapted layer of ours has in common, whichever tuner it belongs to."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


class AdapterLayer(BaseTunerLayer):
    """A layer whose adapters live on the device of the base layer and keep their own precision."""

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, None]:
        # No dtype: peft then moves parameters to the base layer's device but keeps them in fp32 where that
        # layer is bf16, whose 8 bits would swallow the optimiser's small steps.
        device, _ = super()._get_base_layer_device_and_dtype(base_layer)
        # A block of layers has no weight of its own that peft could ask for its device.
        return device or next(base_layer.parameters()).device, None
