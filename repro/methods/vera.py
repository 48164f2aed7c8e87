"""VeRA: one pair of fixed random matrices for all layers, scaled by two trained vectors a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import AdapterCost
from repro.methods.peft_method import PeftMethod, draw_seed, stores_transposed

if TYPE_CHECKING:
    from peft import VeraConfig
    from torch import nn

    from repro.models.shapes import LinearShape


class VeRA(PeftMethod):
    """dW = diag(b) B diag(v) A. A and B have the size of the largest layer, and are sliced for the others.

    Attributes:
        rank: r, the inner size of B A. The paper's GLUE rows use 1024 (RoBERTa base) and 256 (RoBERTa large).
        initial_scale: initial value of v, 0.1 as in the authors' code; b starts at zero.
        dropout: on the input of the adapter, in training; 0 in the GLUE script of the RandLoRA authors, whose
            VeRA rows the paper repeats.
    """

    label: ClassVar[str] = "VeRA"
    citation: ClassVar[str] = "Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation (ICLR 2024)"

    name: Literal["vera"] = "vera"
    rank: int = Field(default=256, gt=0, le=2**15)
    initial_scale: float = Field(default=0.1, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def ranks(self) -> dict[str, int]:
        return {}  # of fixed factors; what is trained are scales, and the paper's 1024 is above 768

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> VeraConfig:
        from peft import VeraConfig

        return VeraConfig(
            r=self.rank,
            d_initial=self.initial_scale,
            vera_dropout=self.dropout,
            projection_prng_key=draw_seed(),
            save_projection=False,  # drawn again from that seed
            target_modules=list(targets),
            task_type=task_type,
            fan_in_fan_out=stores_transposed(model, targets),
        )

    def layer_class(self) -> type:
        from peft.tuners.vera import Linear

        return Linear

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.rank + shape.out_features

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """Two products instead of three, as A and B are frozen: forward, and gradient of the input."""
        sides = shape.out_features + shape.in_features
        # Operations and bytes are assumed, about LoRA's; they were not counted.
        return AdapterCost(4 * tokens * self.rank * sides, operations=22, moved=30 * tokens * sides)
