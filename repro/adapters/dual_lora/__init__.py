"""Dual LoRA (arXiv 2512.03402) as a peft method: importing this package registers it."""

from ..registry import register
from . import lora_plus
from .config import DualLoraConfig
from .hotswap import hotswap_adapter
from .kept import kept_weights
from .layer import DualLoraLayer
from .model import DualLoraModel
from .rule import Rule
from .terms import Update
from .torch_version import warn_if_older
from .update import delta_weight
from .warmup import count_step

__all__ = [
    "DualLoraConfig",
    "DualLoraLayer",
    "DualLoraModel",
    "Rule",
    "Update",
    "count_step",
    "delta_weight",
    "hotswap_adapter",
    "kept_weights",
]

warn_if_older()
register("dual_lora", DualLoraConfig, DualLoraModel)
lora_plus.install()
