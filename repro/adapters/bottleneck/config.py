"""Settings of the bottleneck tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft import PeftType

from repro.adapters.card import CardConfig


@dataclass
class BottleneckConfig(CardConfig):
    """Settings of a bottleneck adapter; the defaults are those of LLM-Adapters' parallel one.

    Args:
        placement: `parallel` to a linear layer as in LLM-Adapters (Hu et al., 2023; `ParallelBottleneck`),
            or `serial`, after a transformer block as in Lin et al. (2020; `SerialBottleneck`).
        bottleneck_size: width b of the hidden layer.
        scaling: factor on the adapter's output.
        dropout: on the adapter's input, in training.
        init_std: initial standard deviation of both projections; 0.02 as in BERT and GPT-2.
        target_modules: names of the linear layers or blocks to adapt, by the end of their path, or a regular
            expression for the whole path.
        modules_to_save: other modules that are trained and saved, such as a classification head.
    """

    placement: Literal["parallel", "serial"] = field(
        default="parallel", metadata={"help": "parallel to a linear layer, or after a block"}
    )
    bottleneck_size: int = field(default=256, metadata={"help": "width of the hidden layer"})
    scaling: float = field(default=1.0, metadata={"help": "factor on the adapter's output"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapter's input"})
    init_std: float = field(default=0.02, metadata={"help": "initial standard deviation of the projections"})
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "linear layers or blocks to adapt"}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "other modules that are trained and saved"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK  # type: ignore[attr-defined]
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1 (got {self.bottleneck_size})")
        if self.placement not in ("parallel", "serial"):
            raise ValueError(f"placement must be 'parallel' or 'serial' (got {self.placement!r})")
