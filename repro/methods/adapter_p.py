"""Adapter-P: a bottleneck network in parallel with the feed-forward projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import MethodError
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import nn

    from repro.adapters.bottleneck import BottleneckConfig
    from repro.models.shapes import LinearShape


class AdapterP(PeftMethod):
    """The "Parallel" adapter of LLM-Adapters, whose LLaMA-7B line the paper's Table 1 repeats.

    Attributes:
        bottleneck_size, scaling, dropout: the defaults of LLM-Adapters' script.
        targets: the layers that get an adapter, instead of the model's targets: only with these two it has
            the 247,463,936 parameters (3.54 %) that the table prints for LLaMA-7B.
    """

    label: ClassVar[str] = "Adapter-P"
    citation: ClassVar[str] = (
        "Hu et al., LLM-Adapters (EMNLP 2023), after He et al., Towards a Unified View (ICLR 2022)"
    )
    mergeable: ClassVar[bool] = False

    name: Literal["adapter_p"] = "adapter_p"
    bottleneck_size: int = Field(default=256, gt=0, le=2**17)
    scaling: float = 1.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=("up_proj", "down_proj"), min_length=1)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> BottleneckConfig:
        from repro.adapters.bottleneck import BottleneckConfig

        return BottleneckConfig(
            bottleneck_size=self.bottleneck_size,
            scaling=self.scaling,
            dropout=self.dropout,
            target_modules=list(self.targets),
            task_type=task_type,
        )

    def layer_class(self) -> type:
        from repro.adapters.bottleneck import ParallelBottleneck

        return ParallelBottleneck

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        """The given linear maps that are targets of this method.

        Raises:
            MethodError: there are none.
        """
        adapted = [
            shape for shape in shapes if any(shape.name.endswith(f".{target}") for target in self.targets)
        ]
        if not adapted:
            raise MethodError(
                f"adapter_p: none of its targets ({', '.join(self.targets)}) is adapted in this model"
            )
        return adapted

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.bottleneck_size * (shape.out_features + shape.in_features)
