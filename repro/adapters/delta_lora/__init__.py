"""Delta-LoRA (arXiv 2309.02411): LoRA that also moves the frozen weight, as a tuner of peft."""

from repro.adapters.delta_lora.config import DeltaLoraConfig
from repro.adapters.delta_lora.layer import DeltaLoraLayer
from repro.adapters.delta_lora.model import DeltaLoraModel
from repro.adapters.registry import register

__all__ = ["DeltaLoraConfig", "DeltaLoraLayer", "DeltaLoraModel"]

register("delta_lora", DeltaLoraConfig, DeltaLoraModel)
