"""The update in plain torch: the reference of the kernels, and what computes where none of them can.

In the code: P = B A, M = activation(P), Z = D C, S = the direction, so that dW = amplitude * M * S.
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
    """W0 (d, k) plus every dW, rounded once, to the dtype of `weight`, and given in `dtype`."""
    return _add(weight, ((term, Block.of(term)) for term in terms)).to(dtype)


def gradients(G: Tensor, term: Term) -> list[Tensor]:
    """The gradients of the term's factors, in their order, for G = dL/d(dW) of shape (d, k)."""
    return _gradients(G, term, Block.of(term))


def backward(
    G: Tensor, terms: Sequence[Term], trained: Sequence[bool], weight: Tensor | None
) -> tuple[Tensor | None, list[list[Tensor]]]:
    """`updated_weight` in the dtype of G, if there is a weight, and the `gradients` of the trained terms."""
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
    """Uses up the block."""
    G = G.to(term.A.dtype)
    P, M, S, product, inside = block
    if S is not None:
        H = S.mul_(G).mul_(_SLOPES[term.rule.magnitude_activation](P, M))
    else:
        H = product.sign_().mul_(G)
        if term.rule.magnitude_activation != "relu":  # its slope, 0 or 1, is in that sign
            H.mul_(_SLOPES[term.rule.magnitude_activation](P, M))
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
    """What a block of dW is made of.

    Where M has no negative elements and S is a sign, S is None: `product` is M with that sign, which takes
    one pass, and its own sign is S wherever M is not 0.
    """

    P: Tensor
    M: Tensor
    S: Tensor | None
    product: Tensor
    inside: Tensor | None  # where |Z| <= 1, for the clip that asks for it

    @classmethod
    def of(cls, term: Term) -> Block:
        P = term.B @ term.A
        M = _ACTIVATIONS[term.rule.magnitude_activation](P)
        if term.rule.direction == "identity":
            Z = term.D @ term.C
            return cls(P, M, Z, M * Z, None)
        inside = None
        if term.rule.direction == "fixed":
            row, column = term.offset
            rows, columns = slice(row, row + P.shape[0]), slice(column, column + P.shape[1])
            S = random_signs(term.seed, *term.shape, rows, columns).to(P.dtype)
        else:
            # One more rank takes the least normal number off every product: Sign(0) = -1, as in the paper,
            # without a pass for it.
            least = torch.finfo(P.dtype).tiny
            S = F.pad(term.D, (0, 1), value=-least) @ F.pad(term.C, (0, 0, 0, 1), value=1.0)
            inside = S.abs() <= 1 if term.rule.clip == "bnn" else None
        if term.rule.magnitude_activation != "identity":
            return cls(P, M, None, torch.copysign(M, S, out=S), inside)
        S = torch.copysign(S.new_ones(()), S)
        return cls(P, M, S, M * S, inside)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.Tensor.relu_,
    "abs": torch.Tensor.abs,
    "sigmoid": torch.Tensor.sigmoid_,
    "identity": lambda P: P,
}
# The derivative, from P and M. Where the activation works in place P is M: the derivative of ReLU is the
# sign of its output, 0 at 0 like the indicator in the paper.
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor | float]] = {
    "relu": lambda P, M: M.sign(),
    "abs": lambda P, M: P.sign_(),
    "sigmoid": lambda P, M: M * (1 - M),
    "identity": lambda P, M: 1.0,
}


def random_signs(seed: Tensor, d: int, k: int, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    """A block of the (d, k) mask of independent -1 and 1, evenly distributed, that belongs to `seed` (int64).

    Every 32 columns of a row are bits of one SplitMix64 output, counted from the seed. So a block can be
    had by itself and every device gives the same mask, neither of which torch's generators offer. Returns
    int32.
    """
    row = torch.arange(*rows.indices(d), device=seed.device)
    start, stop, _ = columns.indices(k)
    word = torch.arange(start // 32, (stop + 31) // 32, device=seed.device)
    bits = _splitmix64(seed + (row[:, None] * ((k + 31) // 32) + word)).to(torch.int32)
    bits = (bits[..., None] >> torch.arange(32, device=seed.device, dtype=torch.int32)) & 1
    offset = start % 32
    return bits.flatten(1)[:, offset : offset + stop - start] * 2 - 1


def _splitmix64(counter: Tensor) -> Tensor:
    """Steele, Lea and Flood (2014) in int64: it wraps like uint64, but shifts drag the sign along."""
    z = counter * -0x61C8864680B583EB
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)
