# mypy: disallow-untyped-defs=False
"""Triton kernels of the update: the weight W0 + dW, and the gradients of the factors.

Never timed and never run on a GPU: tested with Triton's interpreter on a CPU, and compiled for an A100 and
an H100. The tile sizes follow from the compiler's register counts, not from timings.

`updated_weight` writes W0 + dW tile by tile: B A and D C exist only inside a tile. `gradients` reads
G = dL/d(dW) once. A program goes down a strip of columns, accumulates its part of dA and dC, and writes each
tile's part of dB and dD. The parts are then summed in a fixed order, without atomics, so the same inputs
give the same bits, as a resumed run needs. For the same reason only `updated_weight` is autotuned: its sums
do not depend on the tile, but in `gradients` a timer would choose the order of the sums.

Importing this module needs Triton; `repro.adapters.dual_lora.backend` imports it where the kernels can run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from .rule import Words

if TYPE_CHECKING:
    from .terms import Term

NAME = "triton"

# What the kernels support. The sign estimators differ only in the amplitude, which a `Term` holds.
WORDS = Words(
    magnitude_activation=("relu", "abs", "sigmoid", "identity"),
    direction=("sign", "identity", "fixed"),
    sign_estimator=("ste", "xnor", "dorefa"),
    clip=("eq7", "eq12", "bnn", "none"),
)

# Rows, columns and warps of a tile of `_add_update`: Triton takes the fastest for each shape. Compiled for
# an A100 and an H100 (Triton 3.9), the paper's rule spills at most 8 bytes a thread; in 128 x 128 it spills
# 152.
_TILES = [(32, 128, 4), (64, 64, 4), (64, 128, 8), (128, 64, 8)]

# Columns and row tiles of a program of `_add_gradients`. 64 x 64 in 8 warps, and 32 x 64 above a rank of 32,
# were the largest tiles that spilled next to nothing (G in 16 bits, every rule).
# 4096 x 4096 makes 64 x 8 programs, for the 132 multiprocessors of an H100 or the 108 of an A100.
_COLUMNS = 64
_ROW_TILES = 8

# Two blocks in 16 bits, of W0 + dW and of G, take no more memory than torch's four in fp32. In an 8B model
# all but three maps of a layer fit into one block.
_BLOCK = 2**25

# The largest r1 or r2: a kernel holds all ranks of a tile's columns of A and C at once.
MAX_RANK = 64

_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def block_elements(device: torch.device) -> int:
    """Number of elements in a block."""
    return _BLOCK


def updated_weight(weight: Tensor, terms: Sequence[Term], dtype: torch.dtype) -> Tensor:
    """W0 (d, k) plus every dW, rounded once to the dtype of `weight`, in `dtype` and in W0's memory layout.

    Several terms pass through a buffer in fp32, one after the other.
    """
    d, k = weight.shape
    source = weight
    with torch.cuda.device_of(weight):
        for i, term in enumerate(terms):
            last = i == len(terms) - 1
            result = torch.empty_like(weight, dtype=dtype if last else torch.float32)
            _add_update[lambda tile: (triton.cdiv(d, tile["ROWS"]), triton.cdiv(k, tile["COLUMNS"]))](
                source,
                result,
                d,
                k,
                *source.stride(),
                *result.stride(),
                **_arguments(term),
                ROUNDED=_DTYPES[weight.dtype if last else torch.float32],
            )
            source = result
    return source


def gradients(G: Tensor, term: Term) -> list[Tensor]:
    """The gradients of the term's factors, in the order of `factors`, for a contiguous G = dL/d(dW), (d, k).

    The parts to be summed take d (r1 + r2) fp32 numbers for each strip of columns. The strips are computed
    in rounds, so that these parts take no more memory than G.
    """
    d, k = G.shape
    arguments = _arguments(term)
    ranks = [factor.shape[0] for factor in term.factors[::2]]
    rows = 64 if max(ranks) <= 32 else 32
    bands, strips = triton.cdiv(d, rows * _ROW_TILES), triton.cdiv(k, _COLUMNS)
    a_round = min(strips, max(1, k * G.element_size() // (4 * sum(ranks))))
    across = [G.new_empty(bands, r, k, dtype=torch.float32) for r in ranks]
    down = [G.new_empty(a_round, d, r, dtype=torch.float32) for r in ranks]
    # A fixed direction has no C and D, hence no parts of their gradients.
    missing = [None] * (2 - len(ranks))
    sums = [torch.zeros_like(factor) for factor in term.factors]
    with torch.cuda.device_of(G):
        for first in range(0, strips, a_round):
            count = min(a_round, strips - first)
            _add_gradients[count, bands](
                G,
                *across,
                *missing,
                *down,
                *missing,
                d,
                k,
                first,
                term.scale,
                **arguments,
                CLIP=term.rule.clip,
                # bf16 rounds to 2**-9, fp16 and tf32 to 2**-11; three tf32 products come near fp32.
                PRECISION="tf32x3" if G.dtype == torch.float32 else "tf32",
                # A tensor core sums over at least 16 elements.
                RANK1=max(16, triton.next_power_of_2(ranks[0])),
                RANK2=max(16, triton.next_power_of_2(ranks[-1])),
                ROWS=rows,
                COLUMNS=_COLUMNS,
                ROW_TILES=_ROW_TILES,
                num_warps=8,
            )
            for total, parts in zip(sums[1::2], down, strict=True):
                total += parts[:count].sum(0)
    for total, parts in zip(sums[::2], across, strict=True):
        torch.sum(parts, 0, out=total)
    return sums


def backward(
    G: Tensor, terms: Sequence[Term], trained: Sequence[bool], weight: Tensor | None
) -> tuple[Tensor | None, list[list[Tensor]]]:
    """`updated_weight` in the dtype of G, if a weight is given, and the `gradients` of the trained terms."""
    updated = None if weight is None else updated_weight(weight, terms, G.dtype)
    return updated, [
        gradients(G, term) if wanted else [] for term, wanted in zip(terms, trained, strict=True)
    ]


def _arguments(term: Term) -> dict[str, Any]:
    """The keyword arguments that both kernels need from a term."""
    factors = [factor.contiguous() for factor in term.factors]
    return {
        **dict(zip("ABCD", [*factors, None, None], strict=False)),
        "r1": term.A.shape[0],
        "r2": term.factors[-1].shape[1],  # not read where there is no D
        "amplitude": term.amplitude,
        "per_row": term.amplitude.numel() > 1,
        "seed": term.seed,
        "words": (term.shape[1] + 31) // 32,
        "first_row": term.offset[0],
        "first_word": term.offset[1] // 32,
        "ACTIVATION": term.rule.magnitude_activation,
        "DIRECTION": term.rule.direction,
    }


@triton.jit
def _tall(factor, rows, d, ranks, rank):
    """A tile's rows of B or D, (d, rank); zeros outside of the matrix."""
    mask = (rows[:, None] < d) & (ranks[None, :] < rank)
    return tl.load(factor + rows[:, None] * rank + ranks[None, :], mask=mask, other=0.0)


@triton.jit
def _wide(factor, columns, k, ranks, rank):
    """A tile's columns of A or C, (rank, k); zeros outside of the matrix."""
    mask = (ranks[:, None] < rank) & (columns[None, :] < k)
    return tl.load(factor + ranks[:, None] * k + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _product(left, right, rows, columns, d, k, rank, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The tile of B A or D C, in full fp32: the rounding of tf32 must not flip a sign.

    Goes through the rank in steps of 16. Triton unrolls these products: 64 at once would spill kilobytes.
    """
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, rank, 16):
        ranks = first + tl.arange(0, 16)
        tall = _tall(left, rows, d, ranks, rank)
        wide = _wide(right, columns, k, ranks, rank)
        product = tl.dot(tall, wide, product, input_precision="ieee")
    return product


@triton.jit
def _activate(P, ACTIVATION: tl.constexpr):
    """M = activation(P) and its derivative. A NaN in P stays NaN, so that training notices it."""
    if ACTIVATION == "relu":
        M = tl.where(P <= 0, 0.0, P)
        slope = tl.where(P > 0, 1.0, 0.0)
    elif ACTIVATION == "abs":
        M = tl.abs(P)
        slope = tl.where(P > 0, 1.0, tl.where(P < 0, -1.0, 0.0))
    elif ACTIVATION == "sigmoid":
        M = tl.sigmoid(P)
        slope = M * (1 - M)
    else:
        M = P
        slope = tl.full(P.shape, 1.0, tl.float32)
    return M, slope


@triton.jit
def _random_signs(seed, rows, first_word, row_words, COLUMNS: tl.constexpr):
    """The tile of `random_signs` that begins at `first_word` of the `row_words` 32-column words of a row."""
    words = first_word + tl.arange(0, COLUMNS // 32)
    counter = tl.load(seed) + rows[:, None] * row_words + words[None, :]
    z = counter.to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = (z ^ (z >> 31)).to(tl.uint32)
    bits = (z[:, :, None] >> tl.arange(0, 32)[None, None, :].to(tl.uint32)) & 1
    return tl.reshape(bits, (rows.shape[0], COLUMNS)).to(tl.float32) * 2 - 1


@triton.jit
def _scaled_direction(Z, amplitude, rows, d, per_row, DIRECTION: tl.constexpr):
    """S: Z or the random signs times the scale, or Sign(Z) times the amplitude, with Sign(0) = -1."""
    a = tl.load(amplitude + rows * per_row, mask=rows < d, other=0.0)[:, None]
    return tl.where(Z > 0, a, -a) if DIRECTION == "sign" else Z * a


@triton.autotune(
    configs=[
        triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=warps)
        for rows, columns, warps in (_TILES[:1] if knobs.runtime.interpret else _TILES)
    ],
    key=["d", "k", "r1", "r2", "ACTIVATION", "DIRECTION"],
)
@triton.jit
def _add_update(
    source,
    result,
    d,
    k,
    source_row,
    source_column,
    result_row,
    result_column,
    A,
    B,
    C,
    D,
    r1,
    r2,
    amplitude,
    per_row,
    seed,
    words,
    first_row,
    first_word,
    ROUNDED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DIRECTION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """result = source + M * S. Each program computes one tile."""
    # 64 bits: a large enough layer has more than 2**31 numbers.
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first_column = tl.program_id(1).to(tl.int64) * COLUMNS
    columns = first_column + tl.arange(0, COLUMNS)
    inside = (rows[:, None] < d) & (columns[None, :] < k)

    P = _product(B, A, rows, columns, d, k, r1, ROWS, COLUMNS)
    M, _ = _activate(P, ACTIVATION)
    if DIRECTION == "fixed":
        Z = _random_signs(seed, first_row + rows, first_word + first_column // 32, words, COLUMNS)
    else:
        Z = _product(D, C, rows, columns, d, k, r2, ROWS, COLUMNS)
    S = _scaled_direction(Z, amplitude, rows, d, per_row, DIRECTION)

    at = source + rows[:, None] * source_row + columns[None, :] * source_column
    W = tl.load(at, mask=inside, other=0.0).to(tl.float32) + M * S
    at = result + rows[:, None] * result_row + columns[None, :] * result_column
    tl.store(at, W.to(ROUNDED).to(result.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first_strip", "first_row", "first_word"])
def _add_gradients(
    G,
    across_A,
    across_C,
    down_B,
    down_D,
    d,
    k,
    first_strip,
    scale,
    A,
    B,
    C,
    D,
    r1,
    r2,
    amplitude,
    per_row,
    seed,
    words,
    first_row,
    first_word,
    CLIP: tl.constexpr,
    PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DIRECTION: tl.constexpr,
    RANK1: tl.constexpr,
    RANK2: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_TILES: tl.constexpr,
):
    """H and K of each tile in a strip of columns and a band of rows, and their parts of the gradients."""
    strip = tl.program_id(0).to(tl.int64)
    band = tl.program_id(1).to(tl.int64)
    first_column = (first_strip + strip) * COLUMNS
    columns = first_column + tl.arange(0, COLUMNS)
    ranks1 = tl.arange(0, RANK1)
    ranks2 = tl.arange(0, RANK2)
    dA = tl.zeros((RANK1, COLUMNS), tl.float32)
    dC = tl.zeros((RANK2, COLUMNS), tl.float32)
    s = tl.load(scale)

    for tile in range(ROW_TILES):
        rows = (band * ROW_TILES + tile) * ROWS + tl.arange(0, ROWS)
        inside = (rows[:, None] < d) & (columns[None, :] < k)
        g = tl.load(G + rows[:, None] * k + columns[None, :], mask=inside, other=0.0).to(tl.float32)

        P = _product(B, A, rows, columns, d, k, r1, ROWS, COLUMNS)
        M, slope = _activate(P, ACTIVATION)
        if DIRECTION == "fixed":
            Z = _random_signs(seed, first_row + rows, first_word + first_column // 32, words, COLUMNS)
        else:
            Z = _product(D, C, rows, columns, d, k, r2, ROWS, COLUMNS)
        H = g * _scaled_direction(Z, amplitude, rows, d, per_row, DIRECTION) * slope

        tall = _tall(B, rows, d, ranks1, r1)
        wide = _wide(A, columns, k, ranks1, r1)
        dA = tl.dot(tl.trans(tall), H, dA, input_precision=PRECISION)
        at = down_B + (strip * d + rows[:, None]) * r1 + ranks1[None, :]
        dB = tl.dot(H, tl.trans(wide), input_precision=PRECISION)
        tl.store(at, dB, mask=(rows[:, None] < d) & (ranks1[None, :] < r1))

        if DIRECTION != "fixed":
            if CLIP == "eq12":
                g = tl.where(g > 1, 1.0, tl.where(g < -1, -1.0, g))
            K = g * M * s
            if CLIP == "eq7":
                K = tl.where(K > 1, 1.0, tl.where(K < -1, -1.0, K))
            if CLIP == "bnn":
                K = tl.where(tl.abs(Z) <= 1, K, 0.0)
            tall = _tall(D, rows, d, ranks2, r2)
            wide = _wide(C, columns, k, ranks2, r2)
            dC = tl.dot(tl.trans(tall), K, dC, input_precision=PRECISION)
            at = down_D + (strip * d + rows[:, None]) * r2 + ranks2[None, :]
            dD = tl.dot(K, tl.trans(wide), input_precision=PRECISION)
            tl.store(at, dD, mask=(rows[:, None] < d) & (ranks2[None, :] < r2))

    at = across_A + (band * r1 + ranks1[:, None]) * k + columns[None, :]
    tl.store(at, dA, mask=(ranks1[:, None] < r1) & (columns[None, :] < k))
    if DIRECTION != "fixed":
        at = across_C + (band * r2 + ranks2[:, None]) * k + columns[None, :]
        tl.store(at, dC, mask=(ranks2[:, None] < r2) & (columns[None, :] < k))
