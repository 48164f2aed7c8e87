"""The kernels of c_kernels.c, for a CPU.

`updated_weight` writes W0 + dW in one pass over W0, and `gradients` reads G = dL/d(dW) once. B A and D C
exist only in the processor's registers. In plain torch each of about a dozen steps is a pass over memory.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int, c_long, c_uint64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from . import compiler
from .rule import Rule, Words
from .terms import Term

NAME = "c"

# What c_kernels.c supports. Activation, direction and clip are constants there, in capitals. The estimators
# differ in the amplitude alone, which a `Term` brings along.
WORDS = Words(
    magnitude_activation=("relu", "abs", "sigmoid", "identity"),
    direction=("sign", "identity", "fixed"),
    sign_estimator=("ste", "xnor", "dorefa"),
    clip=("eq7", "eq12", "bnn", "none"),
)

# Elements of W0 + dW, and of G, in memory between a kernel and a matrix product. 2**22, the whole of 2048 x
# 2048, was faster than 2**20 and 2**21 (more and smaller products) and than 2**24 (64 MiB, which malloc
# returns to the system and gets again page by page).
_BLOCK = 2**22


class _Term(ctypes.Structure):
    """`struct term` of c_kernels.c."""

    _fields_ = [
        *((name, c_long) for name in ("d", "k", "r1", "r2")),
        *((name, c_void_p) for name in ("A", "B", "C", "D")),
        ("amplitude", c_void_p),
        ("scale", c_float),
        ("seed", c_uint64),
        *((name, c_long) for name in ("words", "first_row", "first_column")),
    ]


def block_elements(device: torch.device) -> int:
    """Number of elements in a block."""
    return _BLOCK


@cache
def usable() -> bool:
    """Whether the kernels can be compiled on this machine. Warns once if they cannot."""
    try:
        _library(Rule(), torch.float32)
    except OSError as error:
        warnings.warn(
            f"Dual LoRA computes with torch, more slowly, because its kernels cannot be compiled: {error}.",
            stacklevel=2,
        )
        return False
    return True


def updated_weight(weight: Tensor, terms: Sequence[Term], dtype: torch.dtype) -> Tensor:
    """W0 (d, k) plus every dW, rounded once, to the dtype of `weight`, then converted to `dtype`.

    Several terms pass through a buffer in fp32, one after the other.
    """
    source = weight if len(terms) == 1 else weight.float()
    for term in terms:
        source = _with_unit_stride(source)
        result = torch.empty(source.shape, dtype=source.dtype)
        described, _kept = _describe(term)
        library = _library(term.rule, source.dtype)
        if library.updated_weight(described, source.data_ptr(), source.stride(0), result.data_ptr()):
            raise _out_of_memory(term)
        source = result
    return source.to(weight.dtype).to(dtype)


def gradients(G: Tensor, term: Term) -> list[Tensor]:
    """The gradients of the term's factors, in the order of `factors`, for G = dL/d(dW) of shape (d, k)."""
    return _gradients(G, term, None)[1]


def backward(
    G: Tensor, terms: Sequence[Term], trained: Sequence[bool], weight: Tensor | None
) -> tuple[Tensor | None, list[list[Tensor]]]:
    """`updated_weight` in the dtype of G, if a weight is given, and the `gradients` of the trained terms.

    For a single term one kernel computes both, and B A and D C only once.
    """
    if weight is not None and weight.dtype == G.dtype and list(trained) == [True]:
        updated, found = _gradients(G, terms[0], weight)
        return updated, [found]
    updated = None if weight is None else updated_weight(weight, terms, G.dtype)
    return updated, [
        gradients(G, term) if wanted else [] for term, wanted in zip(terms, trained, strict=True)
    ]


def _gradients(G: Tensor, term: Term, weight: Tensor | None) -> tuple[Tensor | None, list[Tensor]]:
    G = _with_unit_stride(G)
    found = [torch.empty(factor.shape) for factor in term.factors]
    pointers = [gradient.data_ptr() for gradient in found] + [None] * (4 - len(found))
    updated: Tensor | None = None
    of_weight: tuple[int | None, int, int | None] = (None, 0, None)
    if weight is not None:
        weight = _with_unit_stride(weight)
        updated = torch.empty(weight.shape, dtype=weight.dtype)
        of_weight = (weight.data_ptr(), weight.stride(0), updated.data_ptr())
    described, _kept = _describe(term)
    library = _library(term.rule, G.dtype)
    if library.gradients(described, G.data_ptr(), G.stride(0), *pointers, *of_weight):
        raise _out_of_memory(term)
    return updated, found


def _out_of_memory(term: Term) -> MemoryError:
    return MemoryError(f"Out of memory for the update of a Dual LoRA layer of shape {tuple(term.shape)}.")


def _describe(term: Term) -> tuple[_Term, list[Tensor]]:
    """The term as a C struct, and the tensors that must stay alive because it points to their memory."""
    factors = [factor.contiguous() for factor in term.factors]
    (r1, k), (d, _) = factors[0].shape, factors[1].shape
    amplitude = term.amplitude.expand(d, 1).contiguous()
    pointers = [factor.data_ptr() for factor in factors] + [None] * (4 - len(factors))
    r2 = len(factors[2]) if len(factors) == 4 else 0
    seed = 0 if term.seed is None else term.seed.item() % 2**64
    words = (term.shape[1] + 31) // 32
    numbers = (term.scale.item(), seed, words, *term.offset)
    return _Term(d, k, r1, r2, *pointers, amplitude.data_ptr(), *numbers), [*factors, amplitude]


def _with_unit_stride(matrix: Tensor) -> Tensor:
    """The matrix with contiguous rows, which the transposed weight of transformers' Conv1D does not have."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


@cache
def _library(rule: Rule, dtype: torch.dtype) -> ctypes.CDLL:
    macros = {
        "ACTIVATION": rule.magnitude_activation,
        "DIRECTION": rule.direction,
        "CLIP": rule.clip,
    }
    flags = [f"{name}={value.upper()}" for name, value in macros.items()]
    library = compiler.load(
        Path(__file__).with_suffix(".c"), flags + (["BF16"] if dtype == torch.bfloat16 else [])
    )
    try:
        updated_weight, gradients = library.updated_weight, library.gradients
    except AttributeError as error:
        raise OSError(f"the compiled library lacks a function ({error}); set CC to a C compiler") from error
    updated_weight.argtypes = [POINTER(_Term), c_void_p, c_long, c_void_p]
    updated_weight.restype = c_int
    gradients.argtypes = [POINTER(_Term), c_void_p, c_long, *[c_void_p] * 5, c_long, c_void_p]
    gradients.restype = c_int
    return library
