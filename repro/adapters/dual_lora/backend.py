"""Chooses the code that computes the update: the C or Triton kernels where they can, else plain torch.

`plain`, `c_kernels` and `triton_kernels` have the same interface: `NAME`, `block_elements`,
`updated_weight`, `gradients` and `backward`. The kernels also list the rules that they support, in `WORDS`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ... import kernel_variable
from . import c_kernels, plain
from .rule import Rule
from .terms import Update

# Where the Triton kernels run. The tests add the CPU, on which Triton can interpret them.
TRITON_DEVICES = {"cuda"}

# ROCm builds call AMD GPUs "cuda" too, but those lack some of the precisions that the kernels use.
_HAS_TRITON = find_spec("triton") is not None and torch.version.hip is None

_CLASSES = {Tensor, nn.Parameter}

# The dtypes of inputs and outputs. The kernels compute in fp32, so fp64 is left to torch.
_TRITON_DTYPES = {torch.float32, torch.bfloat16, torch.float16}
_C_DTYPES = {torch.float32, torch.bfloat16}


def choose(rules: Iterable[Rule], factors: Iterable[Tensor], *others: Tensor) -> Any:
    """The module that computes updates of these rules and factors, with the `others` (weight, input).

    Triton on an NVIDIA GPU, up to a rank of `MAX_RANK`; C on a CPU with a C compiler. Torch is the fallback:
    for a rule, dtype or subclass of Tensor that the kernels do not support, under `torch.compile` on a CPU,
    which cannot trace into C, and where the environment variable REPRO_KERNEL is `torch`.

    Raises:
        ValueError: the variable is neither `auto` nor `torch`.
    """
    wanted = kernel_variable.kernel()
    rules, factors = list(rules), list(factors)
    devices, dtypes = set(), set()
    for tensor in (*factors, *others):
        # The memory of another class, such as DTensor, need not be what its shape says.
        if type(tensor) not in _CLASSES or not tensor.numel():
            return plain
        devices.add(tensor.device.type)
        dtypes.add(tensor.dtype)
    if wanted == "torch":
        return plain
    if devices <= TRITON_DEVICES and dtypes <= _TRITON_DTYPES and _HAS_TRITON:
        from . import triton_kernels

        small = all(min(factor.shape) <= triton_kernels.MAX_RANK for factor in factors)
        if small and all(map(triton_kernels.WORDS.cover, rules)):
            return triton_kernels
    if (
        devices == {"cpu"}
        and dtypes <= _C_DTYPES
        and all(map(c_kernels.WORDS.cover, rules))
        and not torch.compiler.is_compiling()
        and c_kernels.usable()
    ):
        return c_kernels
    return plain


def in_one_launch(code: Any, updates: Sequence[Update], weight: Tensor) -> bool:
    """Whether the kernels of `code` take the whole layer at once: one update, its factors as they are.

    `code` then has `whole_weight` and `whole_backward`. The means of `xnor` and `dorefa` need a pass before.
    """
    if code.NAME != "triton" or len(updates) != 1 or weight.numel() > code.block_elements(weight.device):
        return False
    update = updates[0]
    return update.rule.sign_estimator == "ste" and all(
        factor.dtype == torch.float32 and factor.is_contiguous() for factor in update.factors
    )


@contextmanager
def torch_only() -> Iterator[None]:
    """Let torch compute everything."""
    before = os.environ.get(kernel_variable.KERNEL)
    os.environ[kernel_variable.KERNEL] = "torch"
    try:
        yield
    finally:
        os.environ.pop(kernel_variable.KERNEL)
        if before is not None:
            os.environ[kernel_variable.KERNEL] = before
