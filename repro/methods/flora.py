"""FLoRA: LoRA with a trained core E between its factors, W0 + (alpha / r) B E A, with E zero at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.lora import twice_the_rank
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from torch import nn

    from repro.adapters.flora import FloraConfig
    from repro.models.shapes import LinearShape


class FLoRA(PeftMethod):
    """FLoRA of Si et al. on linear layers. The FLoRA of Hao et al. is another method.

    Attributes:
        rank: r, the size of E.
        alpha: the update is scaled by alpha / r. The default of the authors' commonsense script is 2 r.
        init_std: A and B start as N(0, init_std^2), as in the authors' `layers_flora.py`. Their commonsense
            fork draws both like torch's linear layers instead.
        dropout: on the input of the adapter, in training; default of the authors' commonsense script.
    """

    label: ClassVar[str] = "FLoRA"
    citation: ClassVar[str] = "Si et al., FLoRA: Low-Rank Core Space for N-dimension (arXiv 2405.14739)"

    name: Literal["flora"] = "flora"
    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default_factory=twice_the_rank, gt=0)
    init_std: float = Field(default=0.02, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> FloraConfig:
        from repro.adapters.flora import FloraConfig

        return FloraConfig(
            **self.model_dump(exclude={"name"}), target_modules=list(targets), task_type=task_type
        )

    def layer_class(self) -> type:
        from repro.adapters.flora import FloraLayer

        return FloraLayer

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.rank * (shape.out_features + shape.in_features) + self.rank**2
