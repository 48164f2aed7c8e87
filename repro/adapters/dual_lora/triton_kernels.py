"""Triton kernels of the update: the weight W0 + dW, and the gradients of the factors.

Compiled for an A100 and an H100, and tested with Triton's interpreter on a CPU, but not yet run on a GPU. An
earlier version ran on an H200 in November 2026: right but for fp32 at ranks (16, 17), where dD was off by
1e-4 of its norm. The tile shapes follow from the compiler's register counts, not from timings.

`add_update` writes W0 + dW tile by tile: B A and D C exist only inside a tile. `add_gradients` reads
G = dL/d(dW) once, and writes on the way the W0 + dW that a backward pass needs. A program goes down a strip
of columns, accumulates its part of dA and dC, and writes each tile's part of dB and dD. `sum_parts` sums the
parts in a fixed order, without atomics, so the same inputs give the same bits, as a resumed run needs. For
the same reason nothing is autotuned: a timer would choose the order of the sums.

P = B A and Z = D C are in full fp32, since their signs decide. The products of the gradients are split into
products of bf16 numbers on tensor cores: six for G in fp32, as exact as fp32, and three for G in 16 bits, to
2**-16. The forward pass may leave the signs of Z for the backward pass, which then does not compute Z.

Importing this module needs Triton; `repro.adapters.dual_lora.backend` imports it where the kernels can run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import triton_launch
from .rule import Rule, Words
from .terms import Update
from .triton_launch import Given

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

# The largest r1 or r2: a kernel holds all ranks of a tile's columns of A and C at once.
MAX_RANK = 64

# Every map of a LLaMA up to 70B is one block: in 16 bits, W0 + dW and G then take up to 512 MiB each, and the
# parts of the gradients no more than G at r1 + r2 = 32.
_BLOCK = 2**28


def block_elements(device: torch.device) -> int:
    """Number of elements in a block."""
    return _BLOCK


def whole_weight(
    weight: Tensor, update: Update, dtype: torch.dtype, with_signs: bool = False
) -> tuple[Tensor, Tensor | None]:
    """W0 (d, k) plus dW, rounded once to the dtype of `weight`, in `dtype` and in W0's memory layout.

    The update has the sign estimator `ste` and contiguous factors in fp32. With signs, those of D C come
    along for `whole_backward`, 32 columns in an int32, (d, ceil(k / 32)); None for a rule that needs D C
    itself there, and under `torch.compile`.
    """
    if torch.compiler.is_compiling():
        return torch.ops.repro.dual_lora_weight(weight, *_taken_apart(update), dtype), None
    signs = None
    if with_signs and update.rule.direction == "sign" and update.rule.clip != "bnn":
        d, k = weight.shape
        signs = torch.empty((d, (k + 31) // 32), dtype=torch.int32, device=weight.device)
    given = Given.of_update(update)
    return triton_launch.updated_weight(weight, dtype, weight.dtype, signs, given), signs


def whole_backward(
    G: Tensor, weight: Tensor | None, update: Update, signs: Tensor | None = None
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """`whole_weight` in the dtype of G, if a weight is given, and the gradients of the factors.

    They are those of A, B, C and D, or of A and B for a fixed direction, for a contiguous G = dL/d(dW),
    (d, k). `signs` are those of `whole_weight`; D C is computed where there are none.
    """
    if torch.compiler.is_compiling():
        found = torch.ops.repro.dual_lora_backward(G, weight, *_taken_apart(update))
        return (None, tuple(found)) if weight is None else (found[0], tuple(found[1:]))
    return triton_launch.backward(G, weight, signs, Given.of_update(update))


def updated_weight(weight: Tensor, terms: Sequence[Term], dtype: torch.dtype) -> Tensor:
    """W0 (d, k) plus every dW, rounded once to the dtype of `weight`, in `dtype` and in W0's memory layout.

    Several terms pass through a buffer in fp32, one after the other.
    """
    result = weight
    for term in terms[:-1]:
        result = triton_launch.updated_weight(result, torch.float32, torch.float32, None, Given.of_term(term))
    return triton_launch.updated_weight(result, dtype, weight.dtype, None, Given.of_term(terms[-1]))


def gradients(G: Tensor, term: Term) -> list[Tensor]:
    """The gradients of the term's factors, in the order of `factors`, for a contiguous G = dL/d(dW), (d, k).

    Their parts take 4 (r1 + r2) bytes for each 128 or 256 weights of a row, and the same for a column.
    """
    return list(triton_launch.backward(G, None, None, Given.of_term(term))[1])


def backward(
    G: Tensor, terms: Sequence[Term], trained: Sequence[bool], weight: Tensor | None
) -> tuple[Tensor | None, list[list[Tensor]]]:
    """`updated_weight` in the dtype of G, if a weight is given, and the `gradients` of the trained terms."""
    if len(terms) == 1 and trained[0]:
        updated, found = triton_launch.backward(G, weight, None, Given.of_term(terms[0]))
        return updated, [list(found)]
    updated = None if weight is None else updated_weight(weight, terms, G.dtype)
    return updated, [
        gradients(G, term) if wanted else [] for term, wanted in zip(terms, trained, strict=True)
    ]


# For torch.compile, which takes these operators as they are. Not `triton_op`: Inductor would compile and
# launch the kernels itself, which no test without a GPU can show. Without torch.compile nothing calls them:
# the dispatch of an operator costs more than a launch.


def _taken_apart(update: Update) -> tuple[Any, ...]:
    """An update in the types of an operator's schema."""
    rule, scale, *tensors, warmup_steps = update
    return (*tensors, float(scale), warmup_steps, *rule)


@torch.library.custom_op("repro::dual_lora_weight", mutates_args=())
def _weight_operator(
    weight: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None,
    seed: Tensor | None,
    step: Tensor | None,
    scale: float,
    warmup_steps: int,
    magnitude_activation: str,
    direction: str,
    sign_estimator: str,
    clip: str,
    dtype: torch.dtype,
) -> Tensor:
    rule: Any = Rule(magnitude_activation, direction, sign_estimator, clip)  # type: ignore[arg-type]
    return whole_weight(weight, Update(rule, scale, A, B, C, D, seed, step, warmup_steps), dtype)[0]


@_weight_operator.register_fake
def _(weight: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(weight, dtype=arguments[-1])


@torch.library.custom_op("repro::dual_lora_backward", mutates_args=())
def _backward_operator(
    G: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None,
    seed: Tensor | None,
    step: Tensor | None,
    scale: float,
    warmup_steps: int,
    magnitude_activation: str,
    direction: str,
    sign_estimator: str,
    clip: str,
) -> list[Tensor]:
    rule: Any = Rule(magnitude_activation, direction, sign_estimator, clip)  # type: ignore[arg-type]
    update = Update(rule, scale, A, B, C, D, seed, step, warmup_steps)
    updated, found = whole_backward(G, weight, update)
    return list(found) if updated is None else [updated, *found]


@_backward_operator.register_fake
def _(G: Tensor, weight: Tensor | None, *arguments: Any) -> list[Tensor]:
    updated = [] if weight is None else [torch.empty_like(weight, dtype=G.dtype)]
    return updated + [torch.empty_like(factor) for factor in arguments[:4] if factor is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, *fields, _ = inputs
    ctx.dtype, ctx.numbers_and_words = weight.dtype, fields[6:]
    ctx.save_for_backward(*fields[:6])


def _differentiate(ctx: Any, G: Tensor) -> tuple[Any, ...]:
    """The gradients of W0 and of the factors, with which `dual_lora_weight` can be used by itself."""
    tensors = ctx.saved_tensors
    found = iter(torch.ops.repro.dual_lora_backward(G.contiguous(), None, *tensors, *ctx.numbers_and_words))
    gradients = [None if factor is None else next(found) for factor in tensors[:4]]
    rest = [None] * (2 + len(ctx.numbers_and_words) + 1)
    return G.to(ctx.dtype), *gradients, *rest


_weight_operator.register_autograd(_differentiate, setup_context=_save)
