"""Bottleneck adapters: a narrow two-layer network beside a frozen linear layer, as a tuner of peft."""

from repro.adapters.bottleneck.config import BottleneckConfig
from repro.adapters.bottleneck.layer import ParallelBottleneck
from repro.adapters.bottleneck.model import BottleneckModel
from repro.adapters.registry import register

__all__ = ["BottleneckConfig", "BottleneckModel", "ParallelBottleneck"]

register("bottleneck", BottleneckConfig, BottleneckModel, prefix=BottleneckModel.prefix)
