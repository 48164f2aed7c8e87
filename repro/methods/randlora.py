"""RandLoRA: a full-rank update as a sum of fixed random low-rank matrices, whose scales are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import AdapterCost
from repro.methods.lora import twice_the_rank
from repro.methods.peft_method import PeftMethod, draw_seed, stores_transposed

if TYPE_CHECKING:
    from peft import RandLoraConfig
    from torch import nn

    from repro.models.shapes import LinearShape


class RandLoRA(PeftMethod):
    """RandLoRA with the settings of the authors' commonsense script, at the rank of the paper's row.

    Attributes:
        rank: r of one random basis; there are ceil(min(d, k) / r) of them, so a smaller rank trains more.
        alpha: the update is scaled by alpha / r. The authors' scripts use 2 r; peft's default, 640, is 20 r.
        dropout: on the input of the adapter, in training; default of the authors' fine-tuning script.
    """

    label: ClassVar[str] = "RandLoRA"
    citation: ClassVar[str] = (
        "Albert et al., RandLoRA: Full-Rank Parameter-Efficient Fine-Tuning of Large Models (ICLR 2025)"
    )

    name: Literal["randlora"] = "randlora"
    rank: int = Field(default=30, gt=0, le=2**15)
    alpha: float = Field(default_factory=twice_the_rank, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)

    @property
    def ranks(self) -> dict[str, int]:
        return {}  # of one basis; above the smaller side there is one basis, which has full rank

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> RandLoraConfig:
        from peft import RandLoraConfig

        return RandLoraConfig(
            r=self.rank,
            randlora_alpha=self.alpha,  # type: ignore[arg-type]
            randlora_dropout=self.dropout,
            projection_prng_key=draw_seed(),
            # Drawn again from that seed. Saved, they were 1.4 GB beside 13 MB of scales (SmolLM2).
            save_projection=False,
            target_modules=list(targets),
            task_type=task_type,
            fan_in_fan_out=stores_transposed(model, targets),
        )

    def layer_class(self) -> type:
        from peft.tuners.randlora import Linear

        return Linear

    def adapter_parameters(self, shape: LinearShape) -> int:
        smaller = min(shape.out_features, shape.in_features)
        return self._bases(shape) * (self.rank + smaller)

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """The n bases together are two matrices of inner size n r, of which the scaled one has a gradient."""
        inner = self._bases(shape) * self.rank
        scaled = inner * min(shape.out_features, shape.in_features)
        flops = 4 * tokens * inner * (shape.out_features + shape.in_features) + 2 * tokens * scaled
        # Kept: the scaled matrix. Transient: its gradient, in the backward pass.
        moved = 68 * tokens * shape.in_features + 45 * scaled
        return AdapterCost(flops, kept=scaled, transient=scaled, operations=31, moved=moved)

    def _bases(self, shape: LinearShape) -> int:
        """n, the number of bases of rank r that reach full rank."""
        return math.ceil(min(shape.out_features, shape.in_features) / self.rank)
