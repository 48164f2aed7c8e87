"""The environment variable REPRO_KERNEL. Apart from the others: the distribution dual-lora has it too."""

from __future__ import annotations

import os

# With `torch`, torch computes everything: to repeat a run of a machine that has no compiler.
KERNEL = "REPRO_KERNEL"
KERNELS = ("auto", "torch")


def kernel() -> str:
    """What REPRO_KERNEL allows to compute adapters.

    Raises:
        ValueError: it is none of `KERNELS`.
    """
    value = os.environ.get(KERNEL, KERNELS[0])
    if value not in KERNELS:
        raise ValueError(f"{KERNEL}={value!r} is not possible, it must be {' or '.join(KERNELS)}")
    return value
