"""Adapters that peft lacks, written as tuners of peft; importing this package registers them."""

from repro.adapters import bottleneck, delta_lora, dual_lora, flora, mora

__all__ = ["bottleneck", "delta_lora", "dual_lora", "flora", "mora"]
