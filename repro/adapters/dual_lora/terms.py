"""One update of a weight: its rule, its factors, and the form in which it is computed block by block."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rule import Rule

ALL = slice(None)

# Elements in a block of plain torch. On a CPU 2**20, 512 rows of 2048, was the fastest of 2**17 to 2**22: it
# fits the cache, and the matrix products are large enough. An accelerator wants larger products: there each
# tensor of a block takes 32 MiB.
CPU_BLOCK = 2**20
ACCELERATOR_BLOCK = 2**23


class Update(NamedTuple):
    """One dW.

    Attributes:
        scale: the factor of dW, at full strength.
        seed: int64; a fixed direction has it instead of C and D.
        step: optimiser steps that have ended (int64), for a warm-up ramp of `warmup_steps`.
    """

    rule: Rule
    scale: float
    A: Tensor
    B: Tensor
    C: Tensor | None = None
    D: Tensor | None = None
    seed: Tensor | None = None
    step: Tensor | None = None
    warmup_steps: int = 1

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All fields that are tensors, in their order."""
        return self.A, self.B, self.C, self.D, self.seed, self.step

    @property
    def factors(self) -> list[Tensor]:
        """A and B, and C and D unless the direction is fixed."""
        return [factor for factor in (self.A, self.B, self.C, self.D) if factor is not None]

    def strength(self, dtype: torch.dtype) -> Tensor:
        """The scale, on the ramp if there is one, as a scalar tensor."""
        scale = torch.full((), self.scale, dtype=dtype, device=self.A.device)
        if self.step is None:
            return scale
        # Tensor arithmetic: reading the step as a number would synchronise the GPU in every layer.
        return scale * ((self.step + 1) / self.warmup_steps).clamp(max=1)


class Term:
    """An update in the form that backends compute, or a block of it.

    Attributes:
        factors: A (r1, k), B (d, r1), and C (r2, k), D (d, r2) unless the direction is fixed. In fp32 or
            fp64, whatever their dtype in the model: rounding must not flip the sign of a product.
        amplitude: multiplies Sign(D C). The scale, or (d, 1) where it differs by rows.
        shape: (d, k) of the whole dW.
        offset: row and column of the whole dW at which the block begins.
    """

    def __init__(self, update: Update) -> None:
        dtype = torch.promote_types(update.A.dtype, torch.float32)
        self.rule = update.rule
        self.seed: Any = update.seed
        self.factors = [factor.to(dtype) for factor in update.factors]
        self.scale = self.amplitude = update.strength(dtype)
        self.shape = d, k = update.B.shape[0], update.A.shape[1]
        self.offset = (0, 0)
        if self.rule.sign_estimator != "ste":
            blocks = slices(d, k, block_elements(self.D.device))
            means = torch.cat([(self.D[rows] @ self.C).abs_().mean(1, keepdim=True) for rows in blocks])
            self.amplitude = self.scale * (means if self.rule.sign_estimator == "xnor" else means.mean())

    def block(self, rows: slice, columns: slice) -> Term:
        """The part of this term that makes these rows and columns of its dW."""
        whole = [
            part.indices(length) == (0, length, 1)
            for part, length in zip((rows, columns), self.shape, strict=True)
        ]
        if all(whole):
            return self
        part = copy(self)
        part.factors = [f[rows] if i % 2 else f[:, columns] for i, f in enumerate(self.factors)]
        part.amplitude = self.amplitude[rows] if self.amplitude.dim() else self.amplitude
        part.offset = (self.offset[0] + (rows.start or 0), self.offset[1] + (columns.start or 0))
        return part

    @property
    def A(self) -> Tensor:
        return self.factors[0]

    @property
    def B(self) -> Tensor:
        return self.factors[1]

    @property
    def C(self) -> Tensor:
        return self.factors[2]

    @property
    def D(self) -> Tensor:
        return self.factors[3]


def block_elements(device: torch.device) -> int:
    """Number of elements in a block."""
    return CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK


def slices(length: int, width: int, elements: int) -> Iterator[slice]:
    """Split `length` rows (or columns) of `width` elements into slices of about `elements` elements.

    Slices longer than 32 begin at multiples of 32, as the words of random signs do.
    """
    step = max(1, elements // width)
    step -= step % 32 if step > 32 else 0
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
