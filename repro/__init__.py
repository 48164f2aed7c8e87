"""Reproduction of "Dual LoRA: Enhancing LoRA with Magnitude and Direction Updates" (arXiv 2512.03402)."""
