"""The paper's formulas on dense float64 matrices, and the rules that the tests cover."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.adapters.dual_lora import Rule, Update
from repro.adapters.dual_lora.plain import random_signs

RULES = {
    "paper": Rule(),
    "eq12": Rule(clip="eq12"),
    "bnn": Rule(clip="bnn"),
    "unclipped": Rule(clip="none"),
    "abs": Rule(magnitude_activation="abs"),
    "sigmoid": Rule(magnitude_activation="sigmoid"),
    "identity magnitude": Rule(magnitude_activation="identity"),
    "xnor": Rule(sign_estimator="xnor", clip="none"),
    "dorefa": Rule(sign_estimator="dorefa", clip="none"),
    "plain direction": Rule(direction="identity", clip="none"),
    "product": Rule(magnitude_activation="identity", direction="identity", clip="none"),
    "fixed": Rule(direction="fixed", clip="none"),
    "fixed abs": Rule(magnitude_activation="abs", direction="fixed", clip="none"),
}


def reference_delta(u: Update) -> tuple[Tensor, Tensor, Tensor]:
    """dW, the magnitude (with its autograd graph) and the direction, all float64."""
    A, B = u.A.double(), u.B.double()
    activation = {"relu": F.relu, "abs": torch.abs, "sigmoid": torch.sigmoid, "identity": lambda P: P}
    magnitude = activation[u.rule.magnitude_activation](B @ A)
    if u.C is None or u.D is None:
        direction = random_signs(u.seed, B.shape[0], A.shape[1]).double()
    else:
        Z = u.D.double() @ u.C.double()
        direction = Z if u.rule.direction == "identity" else torch.where(Z > 0, 1.0, -1.0).double()
        if u.rule.sign_estimator == "xnor":
            direction = direction * Z.abs().mean(1, keepdim=True).detach()
        if u.rule.sign_estimator == "dorefa":
            direction = direction * Z.abs().mean().detach()
    return u.scale * magnitude * direction, magnitude, direction


def reference_gradients(u: Update, G: Tensor) -> dict[str, Tensor]:
    """The gradients of the factors for a gradient G of the loss with respect to dW, all float64."""
    s = u.scale
    delta, magnitude, direction = reference_delta(u)
    if u.rule.direction == "identity":
        names = ["A", "B", "C", "D"]
        return dict(zip(names, torch.autograd.grad(delta, (u.A, u.B, u.C, u.D), G), strict=True))
    dA, dB = torch.autograd.grad(magnitude, (u.A, u.B), s * G * direction)
    if u.C is None or u.D is None:
        return {"A": dA, "B": dB}
    M, C, D = magnitude.detach(), u.C.detach().double(), u.D.detach().double()
    K = {
        "eq7": torch.clip(s * G * M, -1, 1),
        "eq12": s * torch.clip(G, -1, 1) * M,
        "bnn": s * G * M * ((D @ C).abs() <= 1),
        "none": s * G * M,
    }[u.rule.clip]
    return {"A": dA, "B": dB, "C": D.T @ K, "D": K @ C.T}
