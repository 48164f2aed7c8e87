"""Which code computes the update: the Triton kernels where they can, plain torch elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

# Where the kernels run. The tests add the CPU, on which Triton can interpret them.
DEVICES = {"cuda"}

# Of a group of factors: a kernel holds a tile's columns of A and C as a whole.
MAX_RANK = 64

# What is read and written. The arithmetic is fp32, so fp64 is left to torch.
_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def kernels(factors: Iterable[Tensor], *others: Tensor) -> ModuleType | None:
    """`repro.adapters.dual_lora.kernels` for an update of these factors, or None: compute it with torch.

    None without Triton, off an NVIDIA GPU, for ranks above `MAX_RANK`, and where the factors or the `others`
    (weight, input) are neither in fp32 nor in 16 bits. Every rule of an update has its kernel.
    """
    factors = list(factors)
    tensors = [*factors, *others]
    if any(t.device.type not in DEVICES or t.dtype not in _DTYPES or not t.numel() for t in tensors):
        return None
    if any(min(factor.shape) > MAX_RANK for factor in factors) or not _has_triton():
        return None
    from . import kernels

    return kernels


@cache
def _has_triton() -> bool:
    # AMD's GPUs are "cuda" to torch too, but have not all of the kernels' precisions.
    return find_spec("triton") is not None and torch.version.hip is None
