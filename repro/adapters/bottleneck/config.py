"""Settings of the bottleneck tuner."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig, PeftType


@dataclass
class BottleneckConfig(PeftConfig):
    """Settings of a parallel bottleneck adapter; the defaults are those of LLM-Adapters.

    Args:
        bottleneck_size: width b of the hidden layer.
        scaling: factor on the adapter's output.
        dropout: on the adapter's input, in training.
        init_std: standard deviation of both projections at the start, BERT's 0.02.
        target_modules: names of the linear layers to adapt, by the end of their path, or a regular
            expression.
        modules_to_save: other modules that are trained and saved, such as a classification head.
    """

    bottleneck_size: int = field(default=256, metadata={"help": "width of the hidden layer"})
    scaling: float = field(default=1.0, metadata={"help": "factor on the adapter's output"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapter's input"})
    init_std: float = field(
        default=0.02, metadata={"help": "standard deviation of the projections at the start"}
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "linear layers to adapt"}
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
