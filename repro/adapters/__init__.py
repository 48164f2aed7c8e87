"""Adapters that peft lacks, written as tuners of peft; importing this package registers them."""

from repro.adapters import bottleneck, dual_lora, flora, mora

__all__ = ["bottleneck", "dual_lora", "flora", "mora"]
