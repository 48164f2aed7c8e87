"""Bottleneck adapters, small networks parallel to a linear layer or after a block, as a tuner of peft."""

from repro.adapters.bottleneck.config import BottleneckConfig
from repro.adapters.bottleneck.layer import BottleneckLayer, ParallelBottleneck, SerialBottleneck
from repro.adapters.bottleneck.model import BottleneckModel
from repro.adapters.registry import register

__all__ = [
    "BottleneckConfig",
    "BottleneckLayer",
    "BottleneckModel",
    "ParallelBottleneck",
    "SerialBottleneck",
]

register("bottleneck", BottleneckConfig, BottleneckModel, prefix=BottleneckModel.prefix)
