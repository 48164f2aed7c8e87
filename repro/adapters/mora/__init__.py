"""MoRA (Jiang et al., 2024), high-rank updates by a square matrix, as a tuner of peft."""

from repro.adapters.mora.config import MoraConfig
from repro.adapters.mora.layer import MoraLayer
from repro.adapters.mora.model import MoraModel
from repro.adapters.registry import register

__all__ = ["MoraConfig", "MoraLayer", "MoraModel"]

register("mora", MoraConfig, MoraModel, prefix=MoraModel.prefix)
