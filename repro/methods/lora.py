"""LoRA: W0 + (alpha / r) B A, with B zero at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from repro.methods.peft_method import PeftMethod, stores_transposed

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

    from repro.models.shapes import LinearShape


def twice_the_rank(settings: dict[str, Any]) -> float:
    """alpha = 2 r, the rule of the LLM-Adapters and DoRA scripts: r 32 with alpha 64, r 16 with 32."""
    return 2.0 * settings.get("rank", 0)


class LoRA(PeftMethod):
    """Low-rank adaptation with the settings of the LLM-Adapters and DoRA commonsense scripts.

    Attributes:
        rank: r, the inner size of B A.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the adapter, in training.
    """

    label: ClassVar[str] = "LoRA"
    citation: ClassVar[str] = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (ICLR 2022)"

    name: Literal["lora"] = "lora"
    rank: int = Field(default=32, gt=0)
    alpha: float = Field(default_factory=twice_the_rank, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(**self._lora_settings(targets, task_type, model))

    def _lora_settings(self, targets: Sequence[str], task_type: str, model: nn.Module) -> dict[str, Any]:
        """Settings of peft's LoraConfig that LoRA and its variants share."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(targets),
            "task_type": task_type,
            "fan_in_fan_out": stores_transposed(model, targets),
        }

    def layer_class(self) -> type:
        from peft.tuners.lora import Linear

        return Linear

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.rank * (shape.out_features + shape.in_features)
