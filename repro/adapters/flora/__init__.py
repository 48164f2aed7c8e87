"""FLoRA (Si et al., 2024), a low-rank update with a trained core, as a tuner of peft."""

from repro.adapters.flora.config import FloraConfig
from repro.adapters.flora.layer import FloraLayer
from repro.adapters.flora.model import FloraModel
from repro.adapters.registry import register

__all__ = ["FloraConfig", "FloraLayer", "FloraModel"]

register("flora", FloraConfig, FloraModel, prefix=FloraModel.prefix)
