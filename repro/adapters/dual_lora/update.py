"""The mathematics of Dual LoRA: the weight update, and a linear layer that carries it.

Eq. 5 of arXiv 2512.03402, with W0 of shape (d, k) = (out, in):

    W = W0 + dW,    dW = s * ReLU(B A) * Sign(D C)    (element by element)

A (r1, k) and B (d, r1) are the magnitude group, C (r2, k) and D (d, r2) the direction group. ReLU and Sign
act on single elements, so dW has no low-rank form: each pass over the layer has to build it, and the
gradients of the factors need the whole of G = dL/d(dW). Autograd would keep three (d, k) tensors a layer
for that. Here dW and G exist only a block at a time, and the backward pass builds again what it needs from
the factors.

In the code: P = B A, M = activation(P), Z = D C, S = the direction times the scale, so that dW = M * S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import backend

# Elements of a block. On a CPU 2**20, 512 rows of 2048, was the fastest of 2**17 to 2**22: few enough for
# the cache, enough for the matrix products. An accelerator wants larger products: there a block's tensors
# take 32 MiB each.
CPU_BLOCK = 2**20
ACCELERATOR_BLOCK = 2**23

_ALL = slice(None)


class Rule(NamedTuple):
    """Which variant of the update: the fields of `DualLoraConfig` that decide it."""

    magnitude_activation: str = "relu"
    direction: str = "sign"
    sign_estimator: str = "ste"
    clip: str = "eq7"


class Update(NamedTuple):
    """One dW. `scale` is a scalar tensor. A fixed direction has a `seed` (int64) in place of C and D."""

    rule: Rule
    scale: Tensor
    A: Tensor
    B: Tensor
    C: Tensor | None = None
    D: Tensor | None = None
    seed: Tensor | None = None


_TENSORS = len(Update._fields) - 1  # those after the rule


def delta_weight(update: Update, rows: slice = _ALL, columns: slice = _ALL) -> Tensor:
    """dW of shape (d, k), or a block of it, in fp32 (fp64 for fp64 factors). Carries no gradient."""
    with torch.no_grad(), _without_autocast(update.A):
        block = _Term(update).block(rows, columns)
        return block.product * block.amplitude


def magnitude_and_direction(update: Update) -> tuple[Tensor, Tensor]:
    """The two matrices (d, k) whose product, times the scale, is dW. In the dtype of `delta_weight`."""
    with torch.no_grad(), _without_autocast(update.A):
        block = _Term(update).block(_ALL, _ALL)
        S = torch.copysign(torch.ones_like(block.M), block.product) if block.S is None else block.S
        return block.M, S * (block.amplitude / update.scale)


def factor_products(update: Update) -> tuple[Tensor, Tensor | None]:
    """P = B A and Z = D C, both (d, k), before activation and sign; no Z where the direction is fixed."""
    with torch.no_grad(), _without_autocast(update.A):
        term = _Term(update)
        return term.B @ term.A, None if update.C is None else term.D @ term.C


def updated_weight(weight: Tensor, updates: Sequence[Update]) -> Tensor:
    """W0 (d, k) plus every dW, rounded once, to the dtype of `weight`. Carries no gradient."""
    with torch.no_grad(), _without_autocast(weight):
        terms = [_Term(update) for update in updates]
        if kernels := _kernels(terms, weight):
            return kernels.updated_weight(weight, terms, weight.dtype)
        result = torch.empty_like(weight)
        for rows in _blocks(weight.shape[0], weight.shape[1], weight.device):
            result[rows] = _add(weight[rows], [term.block(rows, _ALL) for term in terms])
        return result


def dual_lora_linear(
    x: Tensor, weight: Tensor | Callable[[], Tensor], bias: Tensor | None, updates: Sequence[Update]
) -> Tensor:
    """y = x (W0 + sum of dW)^T + b, with gradients for x, the factors, b and W0 where they ask for them.

    `x` has shape (..., k) and `weight` (d, k). `weight` may be a function that returns it: it is called in
    each pass, so that a quantised base does not stay unpacked in between. The result has the dtype of `x`,
    or that of autocast.

    With G = dL/d(dW), before any scale, the gradients are for the paper's own rule (Eq. 7, 11, 12)

        dA = B^T H,  dB = H A^T,  H = s G * Sign(Z) * 1{P > 0}
        dC = D^T K,  dD = K C^T,  K = dL/dZ, by the straight-through estimator

    Sign has no useful derivative, so K is dL/dSign(Z) = s G * M after the clip that `rule.clip` names. A
    clip is part of the stand-in for the derivative of Sign: it touches C and D, never A and B.

        eq7    clip(s G * M, -1, 1)     clips the gradient with respect to the sign
        eq12   s clip(G, -1, 1) * M     clips the gradient with respect to dW, before scale and magnitude
        bnn    s G * M * 1{|Z| <= 1}    the usual straight-through estimator of binary networks
        none   s G * M

    `xnor` (Eq. 13) and `dorefa` (Eq. 14) multiply Sign(Z) by the mean of |Z| over a row, or over the
    matrix. The gradient passes that product as if it were the identity, as in DoReFa-Net (arXiv
    1606.06160): K = s G * M, in which neither the mean nor its derivative appears. An `identity` direction,
    S = s Z, is differentiated exactly.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    rules = tuple(update.rule for update in updates)
    tensors = [tensor for update in updates for tensor in update[1:]]
    stored, unpack = (None, weight) if callable(weight) else (weight, None)
    y = _DualLoraLinear.apply(x.reshape(-1, x.shape[-1]), stored, bias, unpack, rules, *tensors)
    return y.view(*x.shape[:-1], y.shape[-1])


class _DualLoraLinear(torch.autograd.Function):
    """Saves x, the factors and a reference to W0.

    The output goes by rows of W and the gradients by columns, so that each element of y and of dL/dx comes
    from one matrix product and is rounded once, as in an ordinary linear layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Any,
        bias: Tensor | None,
        unpack: Callable[[], Tensor] | None,
        rules: tuple[Rule, ...],
        *tensors: Tensor | None,
    ) -> Tensor:
        _, needs_weight, _, _, _, *needs_tensors = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight or any(needs_tensors) else None, stored, *tensors)
        ctx.unpack, ctx.rules = unpack, rules

        weight = stored if unpack is None else unpack()
        with _without_autocast(x):
            terms = [_Term(update) for update in _updates(rules, tensors)]
            if kernels := _kernels(terms, weight, x):
                bias = None if bias is None else bias.to(x.dtype)
                return F.linear(x, kernels.updated_weight(weight, terms, x.dtype), bias)
            y = x.new_empty(x.shape[0], weight.shape[0])
            for rows in _blocks(weight.shape[0], weight.shape[1], x.device):
                block = _add(weight[rows], [term.block(rows, _ALL) for term in terms]).to(x.dtype)
                y[:, rows] = F.linear(x, block, None if bias is None else bias[rows].to(x.dtype))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, *tensors = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _, _, *needs_tensors = ctx.needs_input_grad
        weight = stored if ctx.unpack is None else ctx.unpack()
        d, k = weight.shape

        grad_x = grad.new_empty(grad.shape[0], k) if needs_x else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        with _without_autocast(grad):
            terms = [_Term(update) for update in _updates(ctx.rules, tensors)]
            trained = [any(needs_tensors[i : i + _TENSORS]) for i in range(0, len(tensors), _TENSORS)]
            sums = [[torch.zeros_like(f) for f in term.factors] for term in terms]
            if kernels := _kernels(terms, weight, grad):
                if grad_x is not None:
                    torch.mm(grad, kernels.updated_weight(weight, terms, grad.dtype), out=grad_x)
                if x is not None:
                    G = grad.t() @ x
                    if grad_weight is not None:
                        grad_weight.copy_(G)
                    for i, term in enumerate(terms):
                        if trained[i]:
                            sums[i] = kernels.gradients(G, term)
            else:
                for columns in _blocks(k, d, grad.device):
                    blocks = [term.block(_ALL, columns) for term in terms]
                    if grad_x is not None:
                        grad_x[:, columns] = grad @ _add(weight[:, columns], blocks).to(grad.dtype)
                    if x is None:
                        continue
                    G = grad.t() @ x[:, columns]
                    if grad_weight is not None:
                        grad_weight[:, columns] = G
                    for i, term in enumerate(terms):
                        if trained[i]:
                            own = G.to(term.A.dtype, copy=len(terms) > 1)
                            term.accumulate(own, blocks[i], columns, sums[i])
        grad_tensors: list[Tensor | None] = []
        for total in sums:
            grad_tensors += [None, *total, *[None] * (_TENSORS - 1 - len(total))]
        grad_bias = grad.sum(0) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None, *grad_tensors


class _Block(NamedTuple):
    """A block of dW, amplitude * product, and what the gradients need of it.

    Where M has no negative elements and S is a sign, S is None: `product` is M with that sign, which takes
    one pass, and its own sign is S wherever M is not 0.
    """

    P: Tensor
    M: Tensor
    S: Tensor | None
    product: Tensor
    amplitude: Tensor
    inside: Tensor | None  # where |Z| <= 1, for the clip that asks for it


class _Term:
    """An update made ready to be built block by block."""

    def __init__(self, update: Update) -> None:
        # At least fp32, however the factors are kept: the sign of a product must not hang on its rounding.
        dtype = torch.promote_types(update.A.dtype, torch.float32)
        self.rule = update.rule
        self.seed: Any = update.seed
        self.A, self.B = update.A.to(dtype), update.B.to(dtype)
        self.factors = [self.A, self.B]
        self.scale = self.amplitude = update.scale.to(dtype)
        if update.C is not None and update.D is not None:
            self.C, self.D = update.C.to(dtype), update.D.to(dtype)
            self.factors += [self.C, self.D]
            # One more rank takes the least normal number off every product: Sign(0) = -1, as in the paper,
            # without a pass for it.
            self.shifted_C = F.pad(self.C, (0, 0, 0, 1), value=1.0)
            self.shifted_D = F.pad(self.D, (0, 1), value=-torch.finfo(dtype).tiny)
        if self.rule.sign_estimator != "ste":
            blocks = _blocks(self.D.shape[0], self.C.shape[1], self.D.device)
            means = torch.cat([(self.D[rows] @ self.C).abs_().mean(1, keepdim=True) for rows in blocks])
            self.amplitude = self.scale * (means if self.rule.sign_estimator == "xnor" else means.mean())

    def block(self, rows: slice, columns: slice) -> _Block:
        P = self.B[rows] @ self.A[:, columns]
        M = _ACTIVATIONS[self.rule.magnitude_activation](P)
        amplitude = self.amplitude[rows] if self.amplitude.dim() else self.amplitude
        if self.rule.direction == "identity":
            Z = self.D[rows] @ self.C[:, columns]
            return _Block(P, M, Z, M * Z, amplitude, None)
        inside = None
        if self.rule.direction == "fixed":
            S = random_signs(self.seed, self.B.shape[0], self.A.shape[1], rows, columns).to(P.dtype)
        else:
            S = self.shifted_D[rows] @ self.shifted_C[:, columns]
            inside = S.abs() <= 1 if self.rule.clip == "bnn" else None
        if self.rule.magnitude_activation != "identity":
            return _Block(P, M, None, torch.copysign(M, S, out=S), amplitude, inside)
        S = torch.copysign(S.new_ones(()), S)
        return _Block(P, M, S, M * S, amplitude, inside)

    def accumulate(self, G: Tensor, block: _Block, columns: slice, sums: Sequence[Tensor]) -> None:
        """Add a block of columns to the gradients of A, B, C, D in `sums`. Uses up G and the block."""
        P, M, S, product, amplitude, inside = block
        if S is not None:
            H = S.mul_(G).mul_(_SLOPES[self.rule.magnitude_activation](P, M))
        else:
            H = product.sign_().mul_(G)
            if self.rule.magnitude_activation != "relu":  # its slope, 0 or 1, is in that sign
                H.mul_(_SLOPES[self.rule.magnitude_activation](P, M))
        H.mul_(amplitude)
        sums[0][:, columns] = self.B.t() @ H
        sums[1].addmm_(H, self.A[:, columns].t())
        if self.rule.direction == "fixed":
            return
        K = (G.clamp_(-1, 1) if self.rule.clip == "eq12" else G).mul_(M).mul_(self.scale)
        if self.rule.clip == "eq7":
            K.clamp_(-1, 1)
        elif inside is not None:
            K.mul_(inside)
        sums[2][:, columns] = self.D.t() @ K
        sums[3].addmm_(K, self.C[:, columns].t())


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


def random_signs(seed: Tensor, d: int, k: int, rows: slice = _ALL, columns: slice = _ALL) -> Tensor:
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


def _updates(rules: Sequence[Rule], tensors: Sequence[Any]) -> list[Update]:
    return [Update(rule, *tensors[i * _TENSORS : (i + 1) * _TENSORS]) for i, rule in enumerate(rules)]


def _add(weight: Tensor, blocks: Sequence[_Block]) -> Tensor:
    """The block of W0 plus the dW, rounded to the dtype of W0."""
    result = weight.to(torch.promote_types(weight.dtype, blocks[0].M.dtype))
    for block in blocks:
        result = torch.addcmul(result, block.product, block.amplitude)
    return result.to(weight.dtype)


def _blocks(length: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of `length` that hold about a block's elements, each `width` wide."""
    step = max(1, (CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK) // width)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _kernels(terms: Sequence[_Term], *tensors: Tensor) -> Any:
    return backend.kernels([factor for term in terms for factor in term.factors], *tensors)


def _without_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
