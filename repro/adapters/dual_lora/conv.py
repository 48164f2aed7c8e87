"""A convolution with Dual LoRA in its weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .layer import DualLoraLayer
from .replaced import call_with
from .update import dual_lora_weight


class Conv(DualLoraLayer):
    """torch.nn.Conv1d, Conv2d or Conv3d; its weight (out, in / groups, *kernel) is (d, k) = (out, the rest).

    dW is added to the weight itself, so groups, strides, dilations and padding modes are those of the layer.
    """

    def matrix_shape(self, layer: Any) -> tuple[int, int]:
        d, k = layer.weight.flatten(1).shape
        return d, k

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def stored(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.weight.shape)

    def forward_with(self, adapter_names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not adapter_names:
            return self.base_layer(x, *args, **kwargs)
        self.check_whole()
        weight = dual_lora_weight(self.matrix(self.weight), self.active_updates(adapter_names))
        output: Tensor = call_with(self.get_base_layer(), "weight", self.stored(weight), (x, *args), kwargs)
        return output
