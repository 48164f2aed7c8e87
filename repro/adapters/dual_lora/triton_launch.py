"""Launches of the Triton kernels on whole matrices: tile shapes, memory for the parts, cached launches."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from .rule import Rule
from .triton_code import add_gradients, add_update, sum_parts

if TYPE_CHECKING:
    from .terms import Term, Update

# Rows, columns and warps of a tile of `add_update`.
_UPDATE_TILE = 32, 128, 4

# The rows and columns of the band and the strip of a program of `add_gradients`: the first number that leaves
# `_PROGRAMS` programs, two for each of an H100's 132 multiprocessors. The parts of all gradients take
# 8 (r1 + r2) bytes for that many weights: at r1 + r2 = 32 half as much as G in bf16, or as much as it.
_SIDES = 256, 128
_PROGRAMS = 256

# Elements that a program of `sum_parts` sums, with 4 warps.
_SUMMED = 512

_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

# The dtype in which `add_gradients` multiplies bf16 numbers. Triton's interpreter cannot multiply bf16.
_HALF = tl.float32 if knobs.runtime.interpret else tl.bfloat16


class Given(NamedTuple):
    """What the kernels take of an update or of a block of one: factors in fp32, contiguous."""

    rule: Rule
    A: Tensor
    B: Tensor
    C: Tensor | None
    D: Tensor | None
    seed: Tensor | None
    step: Tensor | None  # with `scale` and `warmup_steps`, or
    strength: Tensor | None  # the product of scale and ramp
    amplitude: Tensor | None  # instead of the strength in S, one number or (d, 1)
    scale: float
    warmup_steps: float
    row_words: int  # words of 32 columns in a row of the whole dW
    first_row: int  # of the block in the whole dW
    first_word: int

    @classmethod
    def of_update(cls, update: Update) -> Given:
        rule, scale, A, B, C, D, seed, step, warmup_steps = update
        words = (A.shape[1] + 31) // 32
        return cls(rule, A, B, C, D, seed, step, None, None, scale, float(warmup_steps), words, 0, 0)

    @classmethod
    def of_term(cls, term: Term) -> Given:
        A, B, *direction = (factor.contiguous() for factor in term.factors)
        C, D = direction or (None, None)
        words, (row, column) = (term.shape[1] + 31) // 32, term.offset
        strengths = term.scale, term.amplitude.contiguous()
        return cls(term.rule, A, B, C, D, term.seed, None, *strengths, 0.0, 1.0, words, row, column // 32)

    @property
    def tensors_and_fractions(self) -> tuple[Tensor | float | None, ...]:
        """The kernels' arguments from `A` to `warmup_steps`."""
        return self[1:11]

    @property
    def compiled_for(self) -> tuple[Any, ...]:
        """All else that decides how a kernel is compiled."""
        _, A, _, C, _, _, step, _, amplitude, _, _, *place = self
        ranks = A.shape[0], 0 if C is None else C.shape[0]
        per_row = amplitude is not None and amplitude.numel() > 1
        return self.rule, ranks, step is None, amplitude is None, per_row, tuple(place)


def updated_weight(
    weight: Tensor, dtype: torch.dtype, rounded: torch.dtype, signs: Tensor | None, given: Given
) -> Tensor:
    """W0 (d, k) plus dW, rounded to `rounded`, in `dtype` and in W0's memory layout; fills `signs`."""
    result = torch.empty_like(weight, dtype=dtype)
    d, k = weight.shape
    strides = *weight.stride(), *result.stride()
    dtypes = weight.dtype, dtype, rounded
    launch = _update_launch(weight.get_device(), d, k, strides, dtypes, signs is None, given.compiled_for)
    launch(weight, result, signs, *given.tensors_and_fractions)
    return result


def backward(
    G: Tensor, weight: Tensor | None, signs: Tensor | None, given: Given
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """W0 + dW in the dtype of G, if a weight is given, and the gradients, for a contiguous G (d, k)."""
    d, k = G.shape
    updated, rounded = None, G.dtype
    strides: tuple[int, ...] = (0, 0, 0, 0)
    if weight is not None:
        updated = torch.empty_like(weight, dtype=G.dtype)
        strides, rounded = (*weight.stride(), *updated.stride()), weight.dtype
    dtypes = G.dtype, rounded
    missing = weight is None, signs is None
    add, total, size = _gradient_launches(G.get_device(), d, k, strides, dtypes, missing, given.compiled_for)
    parts = torch.empty(size, dtype=torch.float32, device=G.device)
    add(G, parts, weight, updated, signs, *given.tensors_and_fractions)
    dA, dB = torch.empty_like(given.A), torch.empty_like(given.B)
    if given.C is None or given.D is None:
        total(parts, dA, dB, None, None)
        return updated, (dA, dB)
    dC, dD = torch.empty_like(given.C), torch.empty_like(given.D)
    total(parts, dA, dB, dC, dD)
    return updated, (dA, dB, dC, dD)


class Launch:
    """A kernel with its numbers and words, launched on tensors of the same dtypes each time.

    Triton compiles it at the first launch, and again for tensors that do not begin at a multiple of 16 bytes.
    Every other launch skips Triton's binding of arguments. Nothing here waits for the GPU, so that a CUDA
    graph can capture all launches but the first.
    """

    def __init__(
        self,
        kernel: Any,
        device: int,
        grid: tuple[int, int, int],
        numbers: tuple[Any, ...],
        warps: int,
        registers: int | None = None,
    ) -> None:
        """`device` is that of the tensors, as `Tensor.get_device` tells it; -1 is a CPU."""
        self._kernel, self._device, self._grid = kernel, device, grid
        self._numbers = numbers
        self._options = {"num_warps": warps, "num_stages": 1, "maxnreg": registers}
        self._compiled: Any = None

    def __call__(self, *arguments: Tensor | float | None) -> None:
        """Launch on the kernel's leading arguments: tensors, None for those that are missing, fractions."""
        if self._device < 0 or self._device == torch.cuda.current_device():
            self._launch(arguments)
        else:
            with torch.cuda.device(self._device):
                self._launch(arguments)

    def _launch(self, arguments: tuple[Any, ...]) -> None:
        addresses = 0
        for argument in arguments:
            if isinstance(argument, Tensor):
                addresses |= argument.data_ptr()
        aligned = addresses % 16 == 0
        if aligned and self._compiled is not None:
            self._compiled[self._grid](*arguments, *self._numbers)
            return
        # The interpreter returns None.
        compiled = self._kernel[self._grid](*arguments, *self._numbers, **self._options)
        if aligned:
            self._compiled = compiled


@cache
def _update_launch(
    device: int,
    d: int,
    k: int,
    strides: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    no_signs: bool,
    compiled_for: tuple[Any, ...],
) -> Launch:
    """The dtypes are only a key here, but for the last, to which the kernel rounds."""
    rule, (r1, r2), _, _, per_row, place = compiled_for
    words = _DTYPES[dtypes[-1]], rule.magnitude_activation, rule.direction, per_row
    rows, columns, warps = _UPDATE_TILE
    numbers = d, k, *strides, r1, r2, *place, *words, rows, columns
    grid = triton.cdiv(d, rows), triton.cdiv(k, columns), 1
    return Launch(add_update, device, grid, numbers, warps)


@cache
def _gradient_launches(
    device: int,
    d: int,
    k: int,
    strides: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    missing: tuple[bool, bool],
    compiled_for: tuple[Any, ...],
) -> tuple[Launch, Launch, int]:
    """The two launches, and how many numbers of parts are between them."""
    rule, (r1, r2), _, _, per_row, place = compiled_for
    dtype, rounded = dtypes
    largest = max(r1, r2)
    rows, columns, warps, registers = _gradient_tile(r1, r2, dtype)
    fits = (n for n in _SIDES if triton.cdiv(d, n) * triton.cdiv(k, n) >= _PROGRAMS)
    side = next(fits, _SIDES[-1])
    bands, strips = triton.cdiv(d, side), triton.cdiv(k, side)
    words = _DTYPES[rounded], rule.magnitude_activation, rule.direction, per_row, rule.clip
    # A tensor core sums over at least 16 elements.
    ranks = (max(16, triton.next_power_of_2(r)) for r in (r1, r2))
    split = 3 if dtype == torch.float32 else 2
    tiles = side // rows, side // columns
    numbers = d, k, *strides, r1, r2, *place, *tiles, *words, split, _HALF, *ranks, rows, columns
    add = Launch(add_gradients, device, (strips, bands, 1), numbers, warps, registers)
    grid = triton.cdiv(max(d, k) * largest, _SUMMED), 4 if r2 else 2, 1
    total = Launch(sum_parts, device, grid, (d, k, r1, r2, bands, strips, _SUMMED), warps=4)
    return add, total, (r1 + r2) * (bands * k + strips * d)


def _gradient_tile(r1: int, r2: int, dtype: torch.dtype) -> tuple[int, int, int, int | None]:
    """Rows, columns and warps of a tile of `add_gradients`, and the most registers a thread may take.

    With 128 registers two programs share a multiprocessor. It spills 64 bytes a thread at ranks of 16, but
    hundreds where ranks are no multiple of 16 or numbers are split in three.
    """
    if max(r1, r2) > 32:
        return 32, 32, 4, None
    two_share = max(r1, r2) == 16 and r1 % 16 == r2 % 16 == 0 and dtype != torch.float32
    return 64, 64, 8, 128 if two_share else None
