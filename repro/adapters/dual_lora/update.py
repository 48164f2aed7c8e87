"""The mathematics of Dual LoRA: the weight update, and a linear layer with it.

Eq. 5 of arXiv 2512.03402, with W0 of shape (d, k) = (out, in):

    W = W0 + dW,    dW = s * ReLU(B A) * Sign(D C)    (element by element)

A (r1, k) and B (d, r1) are the magnitude group, C (r2, k) and D (d, r2) the direction group. ReLU and Sign
act on single elements, so dW has no low-rank form: each pass over the layer has to build it, and the
gradients of the factors need all of G = dL/d(dW). Autograd would keep three (d, k) tensors a layer for that.
Here the backward pass rebuilds them from the factors.

`backend.py` chooses what computes: `plain.py` in torch and `c_kernels.py` on a CPU go block by block
(`blocks.py`); `triton_kernels.py` on a GPU takes an ordinary layer whole, in one launch a pass. Gradients of
gradients and `torch.func.vmap` are left to `dense.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _are_transforms_active

from . import backend, blocks, dense
from .kept import KeptWeight
from .plain import Block
from .rule import Rule
from .terms import ALL, Term, Update

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
        code = _code(updates, weight)
        if backend.in_one_launch(code, updates, weight):
            whole: Tensor = code.whole_weight(weight, updates[0], weight.dtype)[0]
            return whole
        return blocks.updated_weight(code, weight, updates, weight.dtype)


def dual_lora_linear(
    x: Tensor,
    weight: Tensor | Callable[[], Tensor],
    bias: Tensor | None,
    updates: Sequence[Update],
    kept: KeptWeight | None = None,
) -> Tensor:
    """y = x (W0 + sum of dW)^T + b, with gradients for those of x, W0, b and the factors that require them.

    `x` has shape (..., k) and `weight` (d, k). `weight` may be a function that returns it: each pass calls
    it, so that a quantised base does not stay unpacked in between. With `kept`, W0 plus dW is built once and
    stays there. The result has the dtype of `x`, or that of autocast.

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
    rows = x.reshape(-1, x.shape[-1])
    function = _DualLoraLinear if torch.compiler.is_compiling() or _are_transforms_active() else _Eager
    y = function.apply(rows, stored, bias, unpack, kept, *taken_apart(updates))
    return y.view(*x.shape[:-1], y.shape[-1])


def dual_lora_weight(weight: Tensor, updates: Sequence[Update]) -> Tensor:
    """W0 (d, k) plus every dW, in the dtype of `weight`, with the gradients of `dual_lora_linear`.

    For layers that are no matrix product with their input. Unlike there, the sum exists as a whole.
    """
    result: Tensor = _DualLoraWeight.apply(weight, *taken_apart(updates))
    return result


class _DualLoraLinear(torch.autograd.Function):
    """Saves x, the factors and a reference to W0; the backward pass builds dW again, unless it is `kept`."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return _forward(False, *inputs)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save_inputs(ctx, inputs, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return torch.func.vmap(_dense_linear, in_dims)(*inputs), 0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, signs, *tensors = saved(ctx)
        if _to_be_differentiated():
            if x is None:  # the output is linear in x, so that no gradient depends on it
                x = grad.new_zeros(len(grad), tensors[0].shape[1])
            # The gradient of a bias does not depend on the bias.
            bias = grad.new_zeros(grad.shape[1]) if ctx.needs_input_grad[2] else None
            inputs = (x, stored, bias, ctx.unpack, ctx.kept, ctx.forms, *tensors)
            return _pullback(_dense_linear, inputs, ctx.needs_input_grad, grad)
        needs_x, needs_weight, needs_bias, _, _, _, *needs_tensors = ctx.needs_input_grad
        with without_autocast(grad):
            updated = None if ctx.kept is None else ctx.kept.get(grad.dtype)
            weight = stored if ctx.unpack is None else updated if updated is not None else ctx.unpack()
            updates = updates_of(ctx.forms, tensors)
            code = _code(updates, weight, grad)
            base = weight if needs_x and updated is None else None
            found: list[Sequence[Tensor]]
            if x is not None and backend.in_one_launch(code, updates, weight):
                G = grad.t() @ x
                built, gradients = code.whole_backward(G, base, updates[0], signs)
                grad_x = None if built is None else grad @ built
                grad_weight = G.to(weight.dtype) if needs_weight else None
                found = [gradients]
            else:
                grad_weight = torch.empty_like(weight) if needs_weight else None
                trained = _trained(needs_tensors)
                grad_x, found = blocks.linear_backward(code, grad, x, base, updates, trained, grad_weight)
            if needs_x and updated is not None:
                grad_x = grad @ updated
        grad_bias = grad.sum(0) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None, *_of_tensors(found)


class _Eager(_DualLoraLinear):
    """The same outside of `torch.func` and `torch.compile`. Keeps the signs of D C, a bit for each weight.

    It has no `setup_context`: that has no place for the signs, and with one `apply` reads and binds the
    signature of `forward` every time, which takes 40 us.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        trained = any(ctx.needs_input_grad[-TENSORS:])
        output, signs = _forward(trained, *inputs)
        _save_inputs(ctx, inputs, signs)
        return output

    setup_context = torch.autograd.Function.setup_context


def _forward(
    with_signs: bool,
    x: Tensor,
    stored: Any,
    bias: Tensor | None,
    unpack: Callable[[], Tensor] | None,
    kept: KeptWeight | None,
    forms: tuple[Form, ...],
    *tensors: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """y, and the signs of D C if asked for and if the kernels give them."""
    bias = None if bias is None else bias.to(x.dtype)
    with without_autocast(x):
        updated = None if kept is None else kept.get(x.dtype)
        if updated is not None:
            return F.linear(x, updated, bias), None
        weight = stored if unpack is None else unpack()
        updates = updates_of(forms, tensors)
        code = _code(updates, weight, x)
        signs = None
        if backend.in_one_launch(code, updates, weight):
            updated, signs = code.whole_weight(weight, updates[0], x.dtype, with_signs)
        elif kept is not None:
            updated = blocks.updated_weight(code, weight, updates, x.dtype)
        else:
            return blocks.linear(code, x, weight, bias, updates), None
        if kept is not None:
            kept.weight = updated
        return F.linear(x, updated, bias), signs


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], signs: Tensor | None) -> None:
    x, stored, _, unpack, kept, forms, *tensors = inputs
    _, needs_weight, _, _, _, _, *needs_tensors = ctx.needs_input_grad
    save(ctx, tensors, x if needs_weight or any(needs_tensors) else None, stored, signs)
    ctx.unpack, ctx.kept, ctx.forms = unpack, kept, forms


class _DualLoraWeight(torch.autograd.Function):
    """Saves the factors alone; each pass builds dW from them."""

    @staticmethod
    def forward(weight: Tensor, forms: tuple[Form, ...], *tensors: Tensor | None) -> Tensor:
        return updated_weight(weight, updates_of(forms, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.forms, *tensors = inputs
        save(ctx, tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return torch.func.vmap(_dense_weight, in_dims)(*inputs), 0

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        tensors = saved(ctx)
        if _to_be_differentiated():
            # No gradient depends on W0.
            inputs = (torch.zeros_like(G), ctx.forms, *tensors)
            return _pullback(_dense_weight, inputs, ctx.needs_input_grad, G)
        needs_weight, _, *needs_tensors = ctx.needs_input_grad
        with without_autocast(G):
            updates = updates_of(ctx.forms, tensors)
            code = _code(updates, G)
            found: list[Sequence[Tensor]]
            if backend.in_one_launch(code, updates, G):
                found = [code.whole_backward(G.contiguous(), None, updates[0])[1]]
            else:
                found = blocks.gradients(code, G, updates, _trained(needs_tensors))
        return G if needs_weight else None, None, *_of_tensors(found)


def _dense_linear(
    x: Tensor,
    stored: Any,
    bias: Tensor | None,
    unpack: Any,
    kept: KeptWeight | None,
    forms: tuple[Form, ...],
    *tensors: Tensor | None,
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


def _of_tensors(found: Sequence[Sequence[Tensor]]) -> list[Tensor | None]:
    """The gradients of the tensors of all updates, from those of the factors."""
    return [gradient for factors in found for gradient in [*factors, *[None] * (TENSORS - len(factors))]]


def save(ctx: Any, tensors: Sequence[Any], *others: Any) -> None:
    """Save the tensors of all updates, and the others, for `saved` in the backward pass.

    Step counters go past `save_for_backward`. It would refuse one that was written to before the backward
    pass, as DistributedDataParallel writes all buffers, by equal values, in every forward pass.
    """
    ctx.save_for_backward(*others, *(tensor for i, tensor in enumerate(tensors) if (i + 1) % TENSORS))
    ctx.steps = list(tensors[TENSORS - 1 :: TENSORS])


def saved(ctx: Any) -> list[Any]:
    """The others, then the tensors of all updates."""
    found = list(ctx.saved_tensors)  # read once: gradient checkpointing computes them at each reading
    others = len(found) - len(ctx.steps) * (TENSORS - 1)
    found, rest = found[:others], found[others:]
    for i, step in enumerate(ctx.steps):
        found += [*rest[i * (TENSORS - 1) : (i + 1) * (TENSORS - 1)], step]
    return found


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


def _code(updates: Sequence[Update], *tensors: Tensor) -> Any:
    factors = [factor for update in updates for factor in update.factors]
    return backend.choose([update.rule for update in updates], factors, *tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Products in the precision of their factors, on the device of `tensor`."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
