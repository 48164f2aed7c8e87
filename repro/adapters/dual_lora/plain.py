"""The update in plain torch: the reference for the kernels, and the fallback where they cannot run.

Notation: P = B A, M = activation(P), Z = D C, S = the direction, and dW = amplitude * M * S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .terms import ALL, Term, block_elements

NAME = "torch"

__all__ = ["NAME", "Block", "backward", "block_elements", "gradients", "random_signs", "updated_weight"]


def updated_weight(weight: Tensor, terms: Sequence[Term], dtype: torch.dtype) -> Tensor:
    """W0 (d, k) plus every dW, rounded once, to the dtype of `weight`, then converted to `dtype`."""
    return _add(weight, ((term, Block.of(term)) for term in terms)).to(dtype)


def gradients(G: Tensor, term: Term) -> list[Tensor]:
    """The gradients of the term's factors, in the order of `factors`, for G = dL/d(dW) of shape (d, k)."""
    return _gradients(G, term, Block.of(term))


def backward(
    G: Tensor, terms: Sequence[Term], trained: Sequence[bool], weight: Tensor | None
) -> tuple[Tensor | None, list[list[Tensor]]]:
    """`updated_weight` in the dtype of G, if a weight is given, and the `gradients` of the trained terms."""
    blocks = [Block.of(term) for term in terms]
    updated = None if weight is None else _add(weight, zip(terms, blocks, strict=True)).to(G.dtype)
    parts = zip(terms, blocks, trained, strict=True)
    return updated, [_gradients(G, term, block) if wanted else [] for term, block, wanted in parts]


def _add(weight: Tensor, terms: Iterable[tuple[Term, Block]]) -> Tensor:
    result = weight
    for term, block in terms:
        if result.dtype == block.product.dtype:
            result = torch.addcmul(result, block.product, term.amplitude)
        else:
            result = result.to(block.product.dtype).addcmul_(block.product, term.amplitude)
    return result.to(weight.dtype)


def _gradients(G: Tensor, term: Term, block: Block) -> list[Tensor]:
    """Overwrites the block's tensors."""
    G = G.to(term.A.dtype)
    P, M, S, product, inside = block
    slope = _ACTIVATIONS[term.rule.magnitude_activation].slope
    if S is not None:
        H = S.mul_(G).mul_(slope(P, M))
    else:
        H = product.sign_().mul_(G)
        if term.rule.magnitude_activation != "relu":  # its slope, 0 or 1, is in that sign
            H.mul_(slope(P, M))
    H.mul_(term.amplitude)
    found = [term.B.t() @ H, H @ term.A.t()]
    if term.rule.direction == "fixed":
        return found
    K = M.mul_(G.clamp(-1, 1) if term.rule.clip == "eq12" else G).mul_(term.scale)
    if term.rule.clip == "eq7":
        K.clamp_(-1, 1)
    elif inside is not None:
        K.mul_(inside)
    return [*found, term.D.t() @ K, K @ term.C.t()]


class Block(NamedTuple):
    """The matrices that make a block of dW.

    S is None where M >= 0 and the direction is a sign: `product` is then M with that sign, copied in one
    pass, and the sign of `product` is S wherever M is not 0.
    """

    P: Tensor
    M: Tensor
    S: Tensor | None
    product: Tensor
    inside: Tensor | None  # where |Z| <= 1, for the clip that asks for it

    @classmethod
    def of(cls, term: Term) -> Block:
        P = term.B @ term.A
        activation = _ACTIVATIONS[term.rule.magnitude_activation]
        M = activation.function(P)
        if term.rule.direction == "identity":
            Z = term.D @ term.C
            return cls(P, M, Z, M * Z, None)
        inside = None
        if term.rule.direction == "fixed":
            row, column = term.offset
            rows, columns = slice(row, row + P.shape[0]), slice(column, column + P.shape[1])
            S = random_signs(term.seed, *term.shape, rows, columns).to(P.dtype)
        else:
            # An extra rank subtracts `tiny` from D C, so that the paper's Sign(0) = -1 costs no extra pass.
            tiny = torch.finfo(P.dtype).tiny
            S = F.pad(term.D, (0, 1), value=-tiny) @ F.pad(term.C, (0, 0, 0, 1), value=1.0)
            inside = S.abs() <= 1 if term.rule.clip == "bnn" else None
        if activation.non_negative:
            return cls(P, M, None, torch.copysign(M, S, out=S), inside)
        S = torch.copysign(S.new_ones(()), S)
        return cls(P, M, S, M * S, inside)


class Activation(NamedTuple):
    """M = function(P), and its derivative, slope(P, M). Where the function works in place, P is M."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor | float]
    non_negative: bool = True  # whether M >= 0


_ACTIVATIONS: dict[str, Activation] = {
    # 0 at 0, like the indicator in the paper.
    "relu": Activation(torch.Tensor.relu_, lambda P, M: M.sign()),
    "abs": Activation(torch.Tensor.abs, lambda P, M: P.sign_()),
    "sigmoid": Activation(torch.Tensor.sigmoid_, lambda P, M: M * (1 - M)),
    "identity": Activation(lambda P: P, lambda P, M: 1.0, non_negative=False),
}


def random_signs(seed: Tensor, d: int, k: int, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    """A block of the (d, k) mask of independent, equally likely -1 and 1 for `seed` (int64), as int32.

    Every 32 columns of a row are bits of one SplitMix64 output, with a counter that starts at the seed.
    Unlike torch's generators, this gives any block without the others, and the same mask on every device.
    """
    row = torch.arange(*rows.indices(d), device=seed.device)
    start, stop, _ = columns.indices(k)
    word = torch.arange(start // 32, (stop + 31) // 32, device=seed.device)
    bits = _splitmix64(seed + (row[:, None] * ((k + 31) // 32) + word)).to(torch.int32)
    bits = (bits[..., None] >> torch.arange(32, device=seed.device, dtype=torch.int32)) & 1
    offset = start % 32
    return bits.flatten(1)[:, offset : offset + stop - start] * 2 - 1


def _splitmix64(counter: Tensor) -> Tensor:
    """SplitMix64 (Steele, Lea and Flood, 2014) in int64, which wraps like uint64.

    A right shift of int64 copies the sign bit, so a mask removes the copies.
    """
    z = counter * -0x61C8864680B583EB
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)
