"""Settings of the bottleneck tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft import PeftType

from repro.adapters.targets import TargetConfig


@dataclass
class BottleneckConfig(TargetConfig):
    """Settings of a bottleneck adapter; the defaults are those of LLM-Adapters' parallel one.

    Args:
        placement: `parallel` to a linear layer as in LLM-Adapters (Hu et al., 2023; `ParallelBottleneck`),
            or `serial`, after a transformer block as in Lin et al. (2020; `SerialBottleneck`).
        bottleneck_size: width b of the hidden layer.
        scaling: factor on the adapter's output.
        dropout: on the adapter's input, in training.
        init_std: initial standard deviation of both projections; 0.02 as in BERT and GPT-2.
        target_modules: the linear layers or blocks to adapt, see `TargetConfig`.
        exclude_modules, layers_to_transform, layers_pattern, modules_to_save: see `TargetConfig`. A serial
            adapter is placed by the names of its blocks, so it has no layers_to_transform.
    """

    placement: Literal["parallel", "serial"] = field(
        default="parallel", metadata={"help": "parallel to a linear layer, or after a block"}
    )
    bottleneck_size: int = field(default=256, metadata={"help": "width of the hidden layer"})
    scaling: float = field(default=1.0, metadata={"help": "factor on the adapter's output"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapter's input"})
    init_std: float = field(default=0.02, metadata={"help": "initial standard deviation of the projections"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK  # type: ignore[attr-defined]
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1 (got {self.bottleneck_size})")
        if self.placement not in ("parallel", "serial"):
            raise ValueError(f"placement must be 'parallel' or 'serial' (got {self.placement!r})")
        if self.placement == "serial" and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform={self.layers_to_transform!r} is not possible with placement='serial', "
                "which adapts whole blocks; name the blocks in target_modules"
            )
