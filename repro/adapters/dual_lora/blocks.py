"""The layer's passes block by block, so that dW and G = dL/d(dW) never exist as a whole.

The output goes by rows of W and the gradients by columns: each element of y and of dL/dx then comes from one
matrix product and is rounded once, as in an ordinary linear layer. `code` is the backend of `backend.choose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .terms import ALL, Term, Update, slices


def updated_weight(code: Any, weight: Tensor, updates: Sequence[Update], dtype: torch.dtype) -> Tensor:
    """W0 (d, k) plus every dW, rounded once to the dtype of `weight`, in `dtype`."""
    terms = [Term(update) for update in updates]
    result = torch.empty_like(weight, dtype=dtype)
    d, k = weight.shape
    for rows in slices(d, k, code.block_elements(weight.device)):
        parts = [term.block(rows, ALL) for term in terms]
        result[rows] = code.updated_weight(weight[rows], parts, dtype)
    return result


def linear(code: Any, x: Tensor, weight: Tensor, bias: Tensor | None, updates: Sequence[Update]) -> Tensor:
    """y = x (W0 + sum of dW)^T + b for x (n, k), in its dtype."""
    terms = [Term(update) for update in updates]
    d, k = weight.shape
    outputs = []
    for rows in slices(d, k, code.block_elements(x.device)):
        parts = [term.block(rows, ALL) for term in terms]
        block = code.updated_weight(weight[rows], parts, x.dtype)
        outputs.append(F.linear(x, block, None if bias is None else bias[rows]))
    return _side_by_side(outputs)


def linear_backward(
    code: Any,
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    updates: Sequence[Update],
    trained: Sequence[bool],
    grad_weight: Tensor | None,
) -> tuple[Tensor | None, list[Sequence[Tensor]]]:
    """dL/dx, and the gradients of each update's factors (none where it is not trained).

    Args:
        grad: dL/dy, (n, d).
        x: None where no gradient of a weight or factor is needed.
        weight: None where dL/dx is not needed.
        grad_weight: where dL/dW0 is written, if it is needed.
    """
    terms = [Term(update) for update in updates]
    d, k = terms[0].shape
    grad_x: list[Tensor] = []
    found: list[list[list[Tensor]]] = []
    for columns in slices(k, d, code.block_elements(grad.device)):
        parts = [term.block(ALL, columns) for term in terms]
        base = None if weight is None else weight[:, columns]
        if x is None:
            updated = None if base is None else code.updated_weight(base, parts, grad.dtype)
        else:
            G = grad.t() @ x[:, columns]
            if grad_weight is not None:
                grad_weight[:, columns] = G
            updated, gradients = code.backward(G, parts, trained, base)
            found.append(gradients)
            del G
        if updated is not None:
            grad_x.append(grad @ updated)
    return _side_by_side(grad_x) if grad_x else None, _whole_gradients(found, len(terms))


def gradients(
    code: Any, G: Tensor, updates: Sequence[Update], trained: Sequence[bool]
) -> list[Sequence[Tensor]]:
    """The gradients of each update's factors for G (d, k)."""
    terms = [Term(update) for update in updates]
    d, k = G.shape
    found = []
    for columns in slices(k, d, code.block_elements(G.device)):
        parts = [term.block(ALL, columns) for term in terms]
        found.append(code.backward(G[:, columns], parts, trained, None)[1])
    return _whole_gradients(found, len(terms))


def _whole_gradients(found: list[list[list[Tensor]]], terms: int) -> list[Sequence[Tensor]]:
    """By update, from those by block of columns and update: A and C side by side, the sums of B and D."""
    return [
        [
            reduce(torch.add, parts) if i % 2 else _side_by_side(parts)
            for i, parts in enumerate(zip(*(block[term] for block in found), strict=True))
        ]
        for term in range(terms)
    ]


def _side_by_side(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks), 1)
