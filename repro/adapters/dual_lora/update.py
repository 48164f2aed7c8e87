"""The mathematics of Dual LoRA: the weight update, and a linear layer with it.

Eq. 5 of arXiv 2512.03402, with W0 of shape (d, k) = (out, in):

    W = W0 + dW,    dW = s * ReLU(B A) * Sign(D C)    (element by element)

A (r1, k) and B (d, r1) are the magnitude group, C (r2, k) and D (d, r2) the direction group. ReLU and Sign
act on single elements, so dW has no low-rank form: each pass over the layer has to build it, and the
gradients of the factors need all of G = dL/d(dW). Autograd would keep three (d, k) tensors a layer for that.
Here dW and G exist only one block at a time, and the backward pass rebuilds them from the factors.

`backend.py` chooses what computes a block: `plain.py` in torch, `c_kernels.py` on a CPU or
`triton_kernels.py` on a GPU. Gradients of gradients and `torch.func.vmap` are left to `dense.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, dense
from .plain import Block
from .rule import Rule
from .terms import ALL, Term, Update, slices

TENSORS = 6  # tensors of an `Update`


def delta_weight(update: Update, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    """dW of shape (d, k), or a block of it, in fp32 (fp64 for fp64 factors), without a gradient."""
    with torch.no_grad(), without_autocast(update.A):
        term = Term(update).block(rows, columns)
        return Block.of(term).product * term.amplitude


def magnitude_and_direction(update: Update) -> tuple[Tensor, Tensor]:
    """M and S, both (d, k), with dW = scale * M * S element by element, in the dtype of `delta_weight`."""
    with torch.no_grad(), without_autocast(update.A):
        term = Term(update)
        block = Block.of(term)
        S = torch.copysign(torch.ones_like(block.M), block.product) if block.S is None else block.S
        return block.M, S * (term.amplitude / term.scale)


def factor_products(update: Update) -> tuple[Tensor, Tensor | None]:
    """P = B A and Z = D C, both (d, k), before activation and sign; Z is None for a fixed direction."""
    with torch.no_grad(), without_autocast(update.A):
        term = Term(update)
        return term.B @ term.A, None if update.C is None else term.D @ term.C


def updated_weight(weight: Tensor, updates: Sequence[Update]) -> Tensor:
    """W0 (d, k) plus every dW, rounded once, to the dtype of `weight`, without a gradient."""
    with torch.no_grad(), without_autocast(weight):
        terms = [Term(update) for update in updates]
        code = _code(terms, weight)
        result = torch.empty_like(weight)
        d, k = weight.shape
        for rows in slices(d, k, code.block_elements(weight.device)):
            parts = [term.block(rows, ALL) for term in terms]
            result[rows] = code.updated_weight(weight[rows], parts, weight.dtype)
        return result


def dual_lora_linear(
    x: Tensor, weight: Tensor | Callable[[], Tensor], bias: Tensor | None, updates: Sequence[Update]
) -> Tensor:
    """y = x (W0 + sum of dW)^T + b, with gradients for those of x, W0, b and the factors that require them.

    `x` has shape (..., k) and `weight` (d, k). `weight` may be a function that returns it: each pass calls
    it, so that a quantised base does not stay unpacked in between. The result has the dtype of `x`, or that
    of autocast.

    With G = dL/d(dW), before any scale, the gradients of the paper's rule (Eq. 7, 11, 12) are

        dA = B^T H,  dB = H A^T,  H = s G * Sign(Z) * 1{P > 0}
        dC = D^T K,  dD = K C^T,  K = dL/dZ, by the straight-through estimator

    Sign has no useful derivative, so K is dL/dSign(Z) = s G * M after the clip that `rule.clip` names. The
    clip replaces the derivative of Sign, so it affects C and D, never A and B.

        eq7    clip(s G * M, -1, 1)     clips the gradient with respect to the sign
        eq12   s clip(G, -1, 1) * M     clips the gradient with respect to dW, before scale and magnitude
        bnn    s G * M * 1{|Z| <= 1}    the usual straight-through estimator of binary networks
        none   s G * M

    `xnor` (Eq. 13) multiplies Sign(Z) by the mean of |Z| over a row, `dorefa` (Eq. 14) by the mean over the
    matrix. Their gradient treats that product as the identity, as in DoReFa-Net (arXiv 1606.06160):
    K = s G * M, without the mean or its derivative. An `identity` direction, S = s Z, is differentiated
    exactly.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    stored, unpack = (None, weight) if callable(weight) else (weight, None)
    y = _DualLoraLinear.apply(x.reshape(-1, x.shape[-1]), stored, bias, unpack, *taken_apart(updates))
    return y.view(*x.shape[:-1], y.shape[-1])


def dual_lora_weight(weight: Tensor, updates: Sequence[Update]) -> Tensor:
    """W0 (d, k) plus every dW, in the dtype of `weight`, with the gradients of `dual_lora_linear`.

    For layers that are no matrix product with their input. Unlike there, the sum exists as a whole.
    """
    result: Tensor = _DualLoraWeight.apply(weight, *taken_apart(updates))
    return result


class _DualLoraLinear(torch.autograd.Function):
    """Saves x, the factors and a reference to W0.

    The output goes by rows of W and the gradients by columns, so that each element of y and of dL/dx comes
    from one matrix product and is rounded once, as in an ordinary linear layer.
    """

    @staticmethod
    def forward(
        x: Tensor,
        stored: Any,
        bias: Tensor | None,
        unpack: Callable[[], Tensor] | None,
        forms: tuple[Form, ...],
        *tensors: Tensor | None,
    ) -> Tensor:
        weight = stored if unpack is None else unpack()
        bias = None if bias is None else bias.to(x.dtype)
        with without_autocast(x):
            terms = [Term(update) for update in updates_of(forms, tensors)]
            code = _code(terms, weight, x)
            d, k = weight.shape
            outputs = []
            for rows in slices(d, k, code.block_elements(x.device)):
                parts = [term.block(rows, ALL) for term in terms]
                block = code.updated_weight(weight[rows], parts, x.dtype)
                outputs.append(F.linear(x, block, None if bias is None else bias[rows]))
        return _side_by_side(outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, stored, _, unpack, forms, *tensors = inputs
        _, needs_weight, _, _, _, *needs_tensors = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight or any(needs_tensors) else None, stored, *tensors)
        ctx.unpack, ctx.forms = unpack, forms

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return torch.func.vmap(_dense_linear, in_dims)(*inputs), 0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, *tensors = ctx.saved_tensors
        if _to_be_differentiated():
            if x is None:  # the output is linear in x, so that no gradient depends on it
                x = grad.new_zeros(len(grad), tensors[0].shape[1])
            # The gradient of a bias does not depend on the bias.
            bias = grad.new_zeros(grad.shape[1]) if ctx.needs_input_grad[2] else None
            inputs = (x, stored, bias, ctx.unpack, ctx.forms, *tensors)
            return _pullback(_dense_linear, inputs, ctx.needs_input_grad, grad)
        needs_x, needs_weight, needs_bias, _, _, *needs_tensors = ctx.needs_input_grad
        weight = stored if ctx.unpack is None else ctx.unpack()
        d, k = weight.shape

        grad_x: list[Tensor] = []
        grad_weight = torch.empty_like(weight) if needs_weight else None
        with without_autocast(grad):
            terms = [Term(update) for update in updates_of(ctx.forms, tensors)]
            trained = _trained(needs_tensors)
            found: list[list[list[Tensor]]] = []
            code = _code(terms, weight, grad)
            for columns in slices(k, d, code.block_elements(grad.device)):
                parts = [term.block(ALL, columns) for term in terms]
                base = weight[:, columns] if needs_x else None
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
        grad_bias = grad.sum(0) if needs_bias else None
        grad_x_whole = _side_by_side(grad_x) if needs_x else None
        return grad_x_whole, grad_weight, grad_bias, None, None, *_of_tensors(found, len(terms))


class _DualLoraWeight(torch.autograd.Function):
    """Saves the factors alone; each pass builds dW from them."""

    @staticmethod
    def forward(weight: Tensor, forms: tuple[Form, ...], *tensors: Tensor | None) -> Tensor:
        return updated_weight(weight, updates_of(forms, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.forms, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return torch.func.vmap(_dense_weight, in_dims)(*inputs), 0

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if _to_be_differentiated():
            # No gradient depends on W0.
            inputs = (torch.zeros_like(G), ctx.forms, *tensors)
            return _pullback(_dense_weight, inputs, ctx.needs_input_grad, G)
        needs_weight, _, *needs_tensors = ctx.needs_input_grad
        d, k = G.shape
        with without_autocast(G):
            terms = [Term(update) for update in updates_of(ctx.forms, tensors)]
            code = _code(terms, G)
            found = []
            for columns in slices(k, d, code.block_elements(G.device)):
                parts = [term.block(ALL, columns) for term in terms]
                found.append(code.backward(G[:, columns], parts, _trained(needs_tensors), None)[1])
        return G if needs_weight else None, None, *_of_tensors(found, len(terms))


def _dense_linear(
    x: Tensor, stored: Any, bias: Tensor | None, unpack: Any, forms: tuple[Form, ...], *tensors: Tensor | None
) -> Tensor:
    weight = stored if unpack is None else unpack()
    return dense.linear(x, weight, bias, updates_of(forms, tensors))


def _dense_weight(weight: Tensor, forms: tuple[Form, ...], *tensors: Tensor | None) -> Tensor:
    return dense.updated_weight(weight, updates_of(forms, tensors))


def _to_be_differentiated() -> bool:
    """Whether a gradient that is computed now can be differentiated later, as with `create_graph=True`."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _pullback(
    function: Callable[..., Tensor], inputs: tuple[Any, ...], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of the needed inputs of `function` as functions of the inputs and of `grad`."""
    places = [place for place, wanted in enumerate(needed) if wanted]

    def of_needed(*values: Tensor) -> Tensor:
        given = dict(zip(places, values, strict=True))
        return function(*(given.get(place, value) for place, value in enumerate(inputs)))

    with without_autocast(grad):
        pull = torch.func.vjp(of_needed, *(inputs[place] for place in places))[1]
        found = dict(zip(places, pull(grad), strict=True))
    return tuple(found.get(place) for place in range(len(inputs)))


def _trained(needs_tensors: Sequence[bool]) -> list[bool]:
    """Whether an update has a factor that needs a gradient, for each update."""
    return [any(needs_tensors[i : i + TENSORS]) for i in range(0, len(needs_tensors), TENSORS)]


def _of_tensors(found: list[list[list[Tensor]]], terms: int) -> list[Tensor | None]:
    """The gradients of the tensors of all terms, from those of the factors by block of columns and term."""
    gradients: list[Tensor | None] = []
    for term in range(terms):
        whole = _whole_gradients([block[term] for block in found])
        gradients += [*whole, *[None] * (TENSORS - len(whole))]
    return gradients


def _whole_gradients(blocks: list[list[Tensor]]) -> list[Tensor]:
    """Assemble factor gradients: concatenate A and C over column blocks, sum B and D."""
    by_factor = enumerate(zip(*blocks, strict=True))
    return [reduce(torch.add, found) if i % 2 else _side_by_side(found) for i, found in by_factor]


def _side_by_side(blocks: Sequence[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks), 1)


class Form(NamedTuple):
    """The fields of an `Update` that are no tensors."""

    rule: Rule
    scale: float
    warmup_steps: int


def taken_apart(updates: Sequence[Update]) -> tuple[Any, ...]:
    """The forms of the updates, then the tensors of each, as an autograd function takes them."""
    forms = tuple(Form(update.rule, update.scale, update.warmup_steps) for update in updates)
    return forms, *(tensor for update in updates for tensor in update.tensors)


def updates_of(forms: Sequence[Form], tensors: Sequence[Any]) -> list[Update]:
    """The inverse of `taken_apart`."""
    parts = [tensors[i : i + TENSORS] for i in range(0, len(tensors), TENSORS)]
    return [
        Update(form.rule, form.scale, *part, warmup_steps=form.warmup_steps)  # type: ignore[misc]
        for form, part in zip(forms, parts, strict=True)
    ]


def _code(terms: Sequence[Term], *tensors: Tensor) -> Any:
    factors = [factor for term in terms for factor in term.factors]
    return backend.choose([term.rule for term in terms], factors, *tensors)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Products in the precision of their factors, on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)
