# mypy: disallow-untyped-defs=False
"""The code of the Triton kernels. `triton_kernels.py` says what they compute and launches them.

A kernel takes its tensors and fractions first: the numbers and words after them decide what is compiled.
A tensor that a caller does not have is None, and the code for it is left out.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _strength(scale, step, warmup_steps, strength):
    """s: `strength` where it is given, else the scale, on the ramp min((step + 1) / warmup_steps, 1)."""
    if strength is not None:
        s = tl.load(strength)
    elif step is not None:
        ended = (tl.load(step) + 1).to(tl.float32)
        whole = ended * 0 + warmup_steps  # the exact division takes no plain number
        s = tl.minimum(tl.div_rn(ended, whole), 1.0) * scale
    else:
        s = scale
    return s


@triton.jit
def _tall(factor, row, rows, d, ranks, rank):
    """A tile's rows of B or D, (d, rank), from `row` on; zeros outside of the matrix."""
    mask = (rows[:, None] < d - row) & (ranks[None, :] < rank)
    return tl.load(factor + row * rank + (rows[:, None] * rank + ranks[None, :]), mask=mask, other=0.0)


@triton.jit
def _wide(factor, column, columns, k, ranks, rank):
    """A tile's columns of A or C, (rank, k), from `column` on; zeros outside of the matrix."""
    mask = (ranks[:, None] < rank) & (columns[None, :] < k - column)
    return tl.load(factor + column + (ranks[:, None] * k + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def _factor_product(left, right, row, column, rows, columns, d, k, rank):
    """The tile of B A or D C, in full fp32: rounding must not flip a sign.

    Goes through the rank in steps of 16. Triton unrolls these products: 64 at once would spill kilobytes.
    """
    product = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for first in range(0, rank, 16):
        ranks = first + tl.arange(0, 16)
        tall = _tall(left, row, rows, d, ranks, rank)
        wide = _wide(right, column, columns, k, ranks, rank)
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
def _random_words(seed, first, rows, words, row_words):
    """The words of `random_signs` from number `first` on, in rows of `row_words` words."""
    counter = tl.load(seed) + first + rows[:, None].to(tl.int64) * row_words + words[None, :]
    z = counter.to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return (z ^ (z >> 31)).to(tl.uint32)


@triton.jit
def _unpacked(words):
    """The bits of words of 32 columns, the lowest first, as -1 and 1."""
    bits = (words[:, :, None] >> tl.arange(0, 32).to(tl.uint32)[None, None, :]) & 1
    return tl.reshape(bits.to(tl.int8), (words.shape[0], words.shape[1] * 32)).to(tl.float32) * 2 - 1


@triton.jit
def _packed(positive):
    """The inverse of `_unpacked`, for true and false."""
    bits = tl.reshape(positive.to(tl.int32), (positive.shape[0], positive.shape[1] // 32, 32))
    return tl.sum(bits << tl.arange(0, 32)[None, None, :], 2)


@triton.jit
def _scaled_direction(Z, s, amplitude, row, rows, d, DIRECTION: tl.constexpr, PER_ROW: tl.constexpr):
    """S: Z or the random signs times s, or Sign(Z) times the amplitude or s, with Sign(0) = -1."""
    if amplitude is None:
        a = s
    elif PER_ROW:
        a = tl.load(amplitude + row + rows, mask=rows < d - row, other=0.0)[:, None]
    else:
        a = tl.load(amplitude)
    return tl.where(Z > 0, a, -a) if DIRECTION == "sign" else Z * a


@triton.jit(do_not_specialize=["first_row", "first_word"])
def add_update(
    source,
    result,
    signs,
    A,
    B,
    C,
    D,
    seed,
    step,
    strength,
    amplitude,
    scale,
    warmup_steps,
    d,
    k,
    source_row,
    source_column,
    result_row,
    result_column,
    r1,
    r2,
    row_words,
    first_row,
    first_word,
    ROUNDED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DIRECTION: tl.constexpr,
    PER_ROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """result = source + M * S, and the signs of Z if asked for. Each program computes one tile."""
    # 64 bits: a large enough layer has more than 2**31 numbers.
    row = tl.program_id(0).to(tl.int64) * ROWS
    column = tl.program_id(1).to(tl.int64) * COLUMNS
    rows, columns, words = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, COLUMNS // 32)
    inside = (rows[:, None] < d - row) & (columns[None, :] < k - column)
    s = _strength(scale, step, warmup_steps, strength)

    P = _factor_product(B, A, row, column, rows, columns, d, k, r1)
    M, _ = _activate(P, ACTIVATION)
    word = column // 32
    if DIRECTION == "fixed":
        first = (first_row + row) * row_words + first_word + word
        Z = _unpacked(_random_words(seed, first, rows, words, row_words))
    else:
        Z = _factor_product(D, C, row, column, rows, columns, d, k, r2)
        if signs is not None:
            at = signs + row * row_words + word + (rows[:, None] * row_words + words[None, :])
            tl.store(at, _packed(Z > 0), mask=(rows[:, None] < d - row) & (words[None, :] < row_words - word))
    S = _scaled_direction(Z, s, amplitude, row, rows, d, DIRECTION, PER_ROW)

    at = source + row * source_row + column * source_column
    at += rows[:, None] * source_row + columns[None, :] * source_column
    W = tl.load(at, mask=inside, other=0.0).to(tl.float32) + M * S
    at = result + row * result_row + column * result_column
    at += rows[:, None] * result_row + columns[None, :] * result_column
    tl.store(at, W.to(ROUNDED).to(result.dtype.element_ty), mask=inside)


@triton.jit
def _split(x, HALF: tl.constexpr):
    """The first eight bits of x, a bf16 number in the dtype HALF, and the rest of x.

    Cut, not converted: that is sixteen times as fast on a GPU, and a NaN stays a NaN.
    """
    bits = x.to(tl.uint32, bitcast=True)
    high = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return high.to(HALF), x - (bits & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def _rounded(x, HALF: tl.constexpr):
    """x to the nearest bf16 number, in the dtype HALF, for a finite x."""
    bits = x.to(tl.uint32, bitcast=True) + 0x8000
    return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True).to(HALF)


@triton.jit
def _add_product(left, right, total, SPLIT: tl.constexpr, HALF: tl.constexpr):
    """total + left @ right, as products of bf16 numbers on tensor cores, the small ones first.

    With two numbers for each of fp32 it is right to 2**-16, with three as right as in fp32. Not Triton's
    `tf32x3`: one case of it was wrong on an H200, although its code has all three products.
    """
    left_1, left_rest = _split(left, HALF)
    right_1, right_rest = _split(right, HALF)
    if SPLIT == 3:
        left_2, left_rest = _split(left_rest, HALF)
        right_2, right_rest = _split(right_rest, HALF)
        total = tl.dot(_rounded(left_rest, HALF), right_1, total)
        total = tl.dot(left_1, _rounded(right_rest, HALF), total)
        total = tl.dot(left_2, right_2, total)
    else:
        left_2 = _rounded(left_rest, HALF)
        right_2 = _rounded(right_rest, HALF)
    total = tl.dot(left_2, right_1, total)
    total = tl.dot(left_1, right_2, total)
    return tl.dot(left_1, right_1, total)


@triton.jit
def _add_to(part, product, rows, rows_left, ranks, rank, again):
    """Write the tile's product (rank, rows) to the part (rows, rank), or add it if there is one already."""
    at = part + (rows[None, :] * rank + ranks[:, None])
    inside = (rows[None, :] < rows_left) & (ranks[:, None] < rank)
    before = tl.load(at, mask=inside & again, other=0.0)
    tl.store(at, before + product, mask=inside)


@triton.jit(do_not_specialize=["first_row", "first_word", "row_tiles", "column_tiles"])
def add_gradients(
    G,
    parts,
    weight,
    updated,
    signs,
    A,
    B,
    C,
    D,
    seed,
    step,
    strength,
    amplitude,
    scale,
    warmup_steps,
    d,
    k,
    weight_row,
    weight_column,
    updated_row,
    updated_column,
    r1,
    r2,
    row_words,
    first_row,
    first_word,
    row_tiles,
    column_tiles,
    ROUNDED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DIRECTION: tl.constexpr,
    PER_ROW: tl.constexpr,
    CLIP: tl.constexpr,
    SPLIT: tl.constexpr,
    HALF: tl.constexpr,
    RANK1: tl.constexpr,
    RANK2: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """H and K of each tile in a strip of columns and a band of rows, and their parts of the gradients.

    Writes the tiles of W0 + dW too, if there is a weight. `parts` holds those of A, C, B and D: dA and dC
    (r, k) for each band, dB and dD (d, r) for each strip.
    """
    strip, strips = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    band, bands = tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    parts_A = parts + band * r1 * k
    parts_C = parts + bands * r1 * k + band * r2 * k
    parts_B = parts + bands * k * (r1 + r2) + strip * d * r1
    parts_D = parts + bands * k * (r1 + r2) + strips * d * r1 + strip * d * r2
    rows, columns, words = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, COLUMNS // 32)
    ranks1, ranks2 = tl.arange(0, RANK1), tl.arange(0, RANK2)
    s = _strength(scale, step, warmup_steps, strength)

    for column_tile in range(column_tiles):
        # All threads have written their parts of the tile of columns before, which others now read.
        tl.debug_barrier()
        column = (strip * column_tiles + column_tile) * COLUMNS
        word = column // 32
        dA = tl.zeros((RANK1, COLUMNS), tl.float32)
        dC = tl.zeros((RANK2, COLUMNS), tl.float32)
        for row_tile in range(row_tiles):
            row = (band * row_tiles + row_tile) * ROWS
            inside = (rows[:, None] < d - row) & (columns[None, :] < k - column)
            at = G + row * k + column + (rows[:, None] * k + columns[None, :])
            g = tl.load(at, mask=inside, other=0.0).to(tl.float32)

            P = _factor_product(B, A, row, column, rows, columns, d, k, r1)
            M, slope = _activate(P, ACTIVATION)
            if DIRECTION == "fixed":
                first = (first_row + row) * row_words + first_word + word
                Z = _unpacked(_random_words(seed, first, rows, words, row_words))
            elif signs is not None:
                at = signs + row * row_words + word + (rows[:, None] * row_words + words[None, :])
                mask = (rows[:, None] < d - row) & (words[None, :] < row_words - word)
                Z = _unpacked(tl.load(at, mask=mask, other=0).to(tl.uint32, bitcast=True))
            else:
                Z = _factor_product(D, C, row, column, rows, columns, d, k, r2)
            S = _scaled_direction(Z, s, amplitude, row, rows, d, DIRECTION, PER_ROW)
            if weight is not None:
                at = weight + row * weight_row + column * weight_column
                at += rows[:, None] * weight_row + columns[None, :] * weight_column
                W = tl.load(at, mask=inside, other=0.0).to(tl.float32) + M * S
                at = updated + row * updated_row + column * updated_column
                at += rows[:, None] * updated_row + columns[None, :] * updated_column
                tl.store(at, W.to(ROUNDED).to(updated.dtype.element_ty), mask=inside)

            # Each factor is loaded just before its product, which needs fewer registers.
            H = g * S * slope
            tall = _tall(B, row, rows, d, ranks1, r1)
            dA = _add_product(tl.trans(tall), H, dA, SPLIT, HALF)
            wide = _wide(A, column, columns, k, ranks1, r1)
            dB = _add_product(wide, tl.trans(H), tl.zeros((RANK1, ROWS), tl.float32), SPLIT, HALF)
            _add_to(parts_B + row * r1, dB, rows, d - row, ranks1, r1, column_tile > 0)

            if DIRECTION != "fixed":
                if CLIP == "eq12":
                    g = tl.where(g > 1, 1.0, tl.where(g < -1, -1.0, g))
                K = g * M * s
                if CLIP == "eq7":
                    K = tl.where(K > 1, 1.0, tl.where(K < -1, -1.0, K))
                if CLIP == "bnn":
                    K = tl.where(tl.abs(Z) <= 1, K, 0.0)
                tall = _tall(D, row, rows, d, ranks2, r2)
                dC = _add_product(tl.trans(tall), K, dC, SPLIT, HALF)
                wide = _wide(C, column, columns, k, ranks2, r2)
                dD = _add_product(wide, tl.trans(K), tl.zeros((RANK2, ROWS), tl.float32), SPLIT, HALF)
                _add_to(parts_D + row * r2, dD, rows, d - row, ranks2, r2, column_tile > 0)

        at = parts_A + column + (ranks1[:, None] * k + columns[None, :])
        tl.store(at, dA, mask=(ranks1[:, None] < r1) & (columns[None, :] < k - column))
        if DIRECTION != "fixed":
            at = parts_C + column + (ranks2[:, None] * k + columns[None, :])
            tl.store(at, dC, mask=(ranks2[:, None] < r2) & (columns[None, :] < k - column))


@triton.jit
def _sum(parts, result, size, count, ELEMENTS: tl.constexpr):
    """A program's elements of the sum of `count` matrices of `size` elements, one after the other."""
    elements = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = elements < size
    total = tl.zeros((ELEMENTS,), tl.float32)
    for part in range(count):
        total += tl.load(parts + part * size + elements, mask=inside, other=0.0)
    tl.store(result + elements, total, mask=inside)


@triton.jit(do_not_specialize=["bands", "strips"])
def sum_parts(parts, dA, dB, dC, dD, d, k, r1, r2, bands, strips, ELEMENTS: tl.constexpr):
    """The gradients from the parts that `add_gradients` wrote. The second axis of programs is the factor."""
    factor = tl.program_id(1)
    bands, strips = bands.to(tl.int64), strips.to(tl.int64)
    parts_B = parts + bands * k * (r1 + r2)
    if factor == 0:
        _sum(parts, dA, r1 * k, bands, ELEMENTS)
    elif factor == 1:
        _sum(parts_B, dB, d * r1, strips, ELEMENTS)
    elif factor == 2:
        if dC is not None:
            _sum(parts + bands * k * r1, dC, r2 * k, bands, ELEMENTS)
    else:
        if dD is not None:
            _sum(parts_B + strips * d * r1, dD, d * r2, strips, ELEMENTS)
