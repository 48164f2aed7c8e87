"""Adapter-L: a bottleneck network after every transformer block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.peft_method import PeftMethod
from repro.models.shapes import LinearShape

if TYPE_CHECKING:
    from torch import nn

    from repro.adapters.bottleneck import BottleneckConfig

# The path of a block: its list is called `h` in GPT-2, `layers` in LLaMA and `layer` in the encoders.
_BLOCK = r"(?:.*\.)?(?:h|layers|layer)\.\d+"


class AdapterL(PeftMethod):
    """The adapter of Lin et al., whose GPT-2 rows the paper repeats from LoRA's tables.

    The label is the LoRA paper's: one adapter a block, after the MLP. It adapts every block, whatever modules
    a model's file targets.

    Attributes:
        bottleneck_size: b. 224 gives the 11.09M parameters that the tables print for GPT-2 M, 248 the 23.00M
            for GPT-2 L. The authors use 10 to 300, by task.
    """

    label: ClassVar[str] = "Adapter-L"
    citation: ClassVar[str] = (
        "Lin et al., Exploring Versatile Generative Language Model Via Parameter-Efficient Transfer Learning "
        "(Findings of EMNLP 2020)"
    )
    mergeable: ClassVar[bool] = False

    name: Literal["adapter_l"] = "adapter_l"
    bottleneck_size: int = Field(default=224, gt=0, le=2**17)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> BottleneckConfig:
        from repro.adapters.bottleneck import BottleneckConfig

        return BottleneckConfig(
            placement="serial",
            bottleneck_size=self.bottleneck_size,
            target_modules=_BLOCK,
            task_type=task_type,
        )

    def layer_class(self) -> type:
        from repro.adapters.bottleneck import SerialBottleneck

        return SerialBottleneck

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        """The blocks of the given linear maps, each as a map of the residual stream to itself."""
        # The inputs of a block's maps are as wide as the residual stream; only the MLP's output map has a
        # wider one.
        width = min(shape.in_features for shape in shapes)
        blocks = dict.fromkeys(match[0] for shape in shapes if (match := re.match(_BLOCK, shape.name)))
        return [LinearShape(block, width, width) for block in blocks]

    def adapter_parameters(self, shape: LinearShape) -> int:
        projections = self.bottleneck_size * (shape.in_features + shape.out_features)
        biases = self.bottleneck_size + shape.out_features
        normalisation = 2 * shape.in_features
        return projections + biases + normalisation
