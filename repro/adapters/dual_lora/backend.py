"""Which code computes the update: the kernels where they can, plain torch elsewhere.

`plain`, `c_kernels` and `triton_kernels` offer the same: `NAME`, `block_elements`, `updated_weight`,
`gradients` and `backward`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from . import c_kernels, plain

# Where the Triton kernels run. The tests add the CPU, on which Triton can interpret them.
TRITON_DEVICES = {"cuda"}

# `torch` has torch compute everything, for one who repeats a run of a machine without a compiler.
VARIABLE = "REPRO_KERNEL"

# What is read and written. The arithmetic is fp32, so fp64 is left to torch.
_TRITON_DTYPES = {torch.float32, torch.bfloat16, torch.float16}
_C_DTYPES = {torch.float32, torch.bfloat16}


def choose(factors: Iterable[Tensor], *others: Tensor) -> Any:
    """The module that computes an update of these factors, with the `others` (weight, input).

    Triton's on an NVIDIA GPU, for ranks of a group up to its `MAX_RANK`; C's on a CPU with a C compiler;
    torch without them, for other dtypes, on a CPU under `torch.compile`, which looks into torch alone, and
    where the environment variable REPRO_KERNEL says so.

    Raises:
        ValueError: the variable is neither `auto` nor `torch`.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", "torch"):
        raise ValueError(f"{VARIABLE}={wanted!r} is not possible, it must be auto or torch.")
    factors = list(factors)
    tensors = [*factors, *others]
    devices, dtypes = {t.device.type for t in tensors}, {t.dtype for t in tensors}
    if wanted == "torch" or not all(t.numel() for t in tensors):
        return plain
    if devices <= TRITON_DEVICES and dtypes <= _TRITON_DTYPES and _has_triton():
        from . import triton_kernels

        if all(min(factor.shape) <= triton_kernels.MAX_RANK for factor in factors):
            return triton_kernels
    if (
        devices == {"cpu"}
        and dtypes <= _C_DTYPES
        and not torch.compiler.is_compiling()
        and c_kernels.usable()
    ):
        return c_kernels
    return plain


@contextmanager
def torch_only() -> Iterator[None]:
    """Has torch compute everything."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "torch"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@cache
def _has_triton() -> bool:
    # AMD's GPUs are "cuda" to torch too, but have not all of the kernels' precisions.
    return find_spec("triton") is not None and torch.version.hip is None
