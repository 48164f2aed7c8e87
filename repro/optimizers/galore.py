"""AdamW with moments of a low-rank projection of the gradient: GaLore, and GaRare's random projector.

For a (d, k) weight, AdamW keeps two moments of d k numbers. Here the gradient is first projected along its
shorter side, so a moment has r max(d, k) numbers, and Adam's step in the projection is mapped back. All
weights move, but between two refreshes of the projector only within r dimensions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

Projector = Literal["svd", "gaussian"]


class ProjectedAdamW(Optimizer):
    """W -= lr * scale * P Adam(P^T G), for a gradient G whose shorter side, of length m, comes first.

    `svd` is GaLore (Zhao et al., ICML 2024, algorithm 2): P, of shape (m, r), holds the first r singular
    vectors of the gradient, renewed every `update_gap` steps. `gaussian` is our reading of GaRare (Liu et
    al., ICLR 2025): P is drawn from N(0, 1/r), so that E[P P^T] = I. It depends on the seed, the parameter's
    index in the optimiser and the number of refreshes, and is drawn again in every step instead of being
    stored. A refresh keeps the moments in both cases.

    As in GaLore's released code, a square matrix is projected on its columns, `scale` multiplies the mapped
    step, and the weight decays after the step, by lr * weight_decay. As in torch's AdamW but not in GaLore's
    code, eps is added to the root of the bias-corrected second moment.

    Args:
        params: parameters, or groups of them. Any setting can be a group's own.
        lr, betas, eps, weight_decay: as in torch's AdamW.
        rank: r, capped at m; all parameters must be matrices. None means plain AdamW.
        update_gap: T_g, steps between two refreshes of the projector.
        scale: GaLore's alpha, for projected parameters only.
        projector: how P is found, `svd` or `gaussian`.
        seed: for `gaussian`.

    Raises:
        ValueError: a parameter to project is not a matrix, or the projector is unknown.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        rank: int | None = None,
        update_gap: int = 200,
        scale: float = 1.0,
        projector: Projector = "svd",
        seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "update_gap": update_gap,
            "scale": scale,
            "projector": projector,
            "seed": seed,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["projector"] not in ("svd", "gaussian"):
            raise ValueError(f"unknown projector {group['projector']!r}; known: svd, gaussian")
        for parameter in group["params"]:
            if group["rank"] is not None and parameter.dim() != 2:
                raise ValueError(
                    f"a parameter of shape {tuple(parameter.shape)} cannot be projected, only matrices can; "
                    "put it into a group with rank None"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. Calls `closure`, if given, with gradients enabled, and returns its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(group, parameter) for group in self.param_groups for parameter in group["params"]]
        for index, (group, parameter) in enumerate(pairs):
            if parameter.grad is not None:
                # In a trainer that steps under autocast the projections would be computed in bf16.
                with torch.autocast(parameter.device.type, enabled=False):
                    self._update(parameter, parameter.grad, group, index)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any], index: int) -> None:
        state = self.state[weight]
        state.setdefault("step", 0)
        if group["rank"] is None:
            direction = _adam(gradient, state, group)
        else:
            weight, gradient = _shorter_side_first(weight), _shorter_side_first(gradient)
            P = _projector(gradient, state, group, index)
            direction = group["scale"] * (P @ _adam(P.T @ gradient, state, group))
        weight.sub_(group["lr"] * direction)
        weight.mul_(1 - group["lr"] * group["weight_decay"])


def _shorter_side_first(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, a view either way."""
    return matrix if matrix.shape[0] < matrix.shape[1] else matrix.T


def _projector(gradient: Tensor, state: dict[str, Any], group: dict[str, Any], index: int) -> Tensor:
    """P of this step, (m, min(r, m)) for a gradient of (m, n)."""
    refresh, age = divmod(state["step"], group["update_gap"])
    rank = min(group["rank"], gradient.shape[0])
    if group["projector"] == "gaussian":
        seed = random.Random(f"{group['seed']}/{index}/{refresh}").getrandbits(32)
        # On the CPU, so that the numbers do not depend on the device.
        generator = torch.Generator().manual_seed(seed)
        P = torch.randn(gradient.shape[0], rank, generator=generator, dtype=gradient.dtype, device="cpu")
        return P.div_(rank**0.5).to(gradient.device)
    if age == 0:
        # A copy: a view would keep all m singular vectors in memory and in checkpoints.
        state["projector"] = torch.linalg.svd(gradient, full_matrices=False).U[:, :rank].clone()
    return state["projector"]


def _adam(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Adam's step, before the learning rate, in the shape of `gradient`. Updates count and moments."""
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    beta1, beta2 = group["betas"]
    state["step"] += 1
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    return mean / (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
