"""The layer in ordinary operations of torch, on dense matrices: slow, and differentiable to any order.

`update.py` comes here for what its blocks cannot do: gradients of gradients, and `torch.func.vmap`. The
gradients of first order are those of `dual_lora_linear`; those of higher order are their derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .plain import random_signs
from .rule import Clip
from .terms import Update

_ACTIVATIONS = {"relu": torch.relu, "abs": torch.abs, "sigmoid": torch.sigmoid, "identity": lambda P: P}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, updates: Sequence[Update]) -> Tensor:
    """y = x (W0 + sum of dW)^T + b, of shape (n, d), in the dtype of x."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.linear(x, updated_weight(weight, updates).to(x.dtype), bias)


def updated_weight(weight: Tensor, updates: Sequence[Update]) -> Tensor:
    """W0 (d, k) plus every dW, in the dtype of `weight`."""
    total = weight
    for update in updates:
        total = total + _delta(update)
    return total.to(weight.dtype)


def _delta(update: Update) -> Tensor:
    rule, _, A, B, C, D, seed, *_ = update
    dtype = torch.promote_types(A.dtype, torch.float32)
    A, B, scale = A.to(dtype), B.to(dtype), update.strength(dtype)
    M = _ACTIVATIONS[rule.magnitude_activation](B @ A)
    if C is None or D is None:
        assert seed is not None
        return scale * M * random_signs(seed, B.shape[0], A.shape[1]).to(dtype)
    Z = D.to(dtype) @ C.to(dtype)
    if rule.direction == "identity":
        return scale * M * Z
    amplitude = scale
    if rule.sign_estimator != "ste":
        mean = Z.detach().abs().mean(1, keepdim=True)
        amplitude = scale * (mean if rule.sign_estimator == "xnor" else mean.mean())
    delta: Tensor = _SignedMagnitude.apply(M, Z, amplitude, scale, rule.clip)
    return delta


class _SignedMagnitude(torch.autograd.Function):
    """amplitude * M * Sign(Z), with the straight-through gradient of Z."""

    generate_vmap_rule = True

    @staticmethod
    def forward(M: Tensor, Z: Tensor, amplitude: Tensor, scale: Tensor, clip: Clip) -> Tensor:
        return amplitude * M * torch.where(Z > 0, 1.0, -1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.clip = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        M, Z, amplitude, scale = ctx.saved_tensors
        K = scale * M * (G.clamp(-1, 1) if ctx.clip == "eq12" else G)
        if ctx.clip == "eq7":
            K = K.clamp(-1, 1)
        if ctx.clip == "bnn":
            K = K * (Z.abs() <= 1)
        return amplitude * G * torch.where(Z > 0, 1.0, -1.0), K, None, None, None
