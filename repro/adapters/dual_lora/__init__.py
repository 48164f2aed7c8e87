"""Dual LoRA (arXiv 2512.03402) as a peft method: importing this package registers it."""

from ..registry import register
from .config import DualLoraConfig
from .hotswap import hotswap_adapter
from .layer import DualLoraLayer
from .model import DualLoraModel
from .rule import Rule
from .terms import Update
from .update import delta_weight

__all__ = [
    "DualLoraConfig",
    "DualLoraLayer",
    "DualLoraModel",
    "Rule",
    "Update",
    "delta_weight",
    "hotswap_adapter",
]

register("dual_lora", DualLoraConfig, DualLoraModel)
