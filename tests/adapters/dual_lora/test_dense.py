"""`torch.func` and gradients of gradients, against loops and against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from repro.adapters.dual_lora import Rule, Update
from repro.adapters.dual_lora.update import dual_lora_linear, dual_lora_weight
from tests.adapters.dual_lora.reference import RULES, reference_delta, reference_gradients

D_OUT, D_IN = 5, 7
SMOOTH = {
    "product": RULES["product"],
    "sigmoid": Rule("sigmoid", "identity", clip="none"),
    "fixed sigmoid": Rule("sigmoid", "fixed", clip="none"),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
smooth = pytest.mark.parametrize("rule", SMOOTH.values(), ids=SMOOTH)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def make_update(rule: Rule, dtype: torch.dtype = torch.float64) -> Update:
    shapes = {"A": (2, D_IN), "B": (D_OUT, 2), "C": (3, D_IN), "D": (D_OUT, 3)}
    factors = {name: normal(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}
    scale = 1.3
    if rule.direction == "fixed":
        return Update(rule, scale, factors["A"], factors["B"], seed=torch.tensor(5))
    return Update(rule, scale, **factors)


def factors(u: Update) -> tuple[Tensor, ...]:
    return tuple(factor for factor in (u.A, u.B, u.C, u.D) if factor is not None)


def with_factors(u: Update, *values: Tensor) -> Update:
    return u._replace(**dict(zip("ABCD", values, strict=False)))


@rules
def test_weight_and_its_gradients_are_those_of_the_formulas(rule: Rule) -> None:
    u, weight, G = make_update(rule), normal(D_OUT, D_IN, seed=8), normal(D_OUT, D_IN, seed=9).detach()
    result = dual_lora_weight(weight, [u])
    torch.testing.assert_close(result, weight + reference_delta(u)[0])
    result.backward(G)
    torch.testing.assert_close(weight.grad, G)
    for name, expected in reference_gradients(u, G).items():
        torch.testing.assert_close(getattr(u, name).grad, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # in torch, and in C
@rules
def test_vmap_of_gradients_is_a_loop_of_gradients(rule: Rule, dtype: torch.dtype) -> None:
    u = make_update(rule, dtype)
    weight, bias = normal(D_OUT, D_IN, seed=8, dtype=dtype), normal(D_OUT, seed=7, dtype=dtype)
    x = 3 * normal(6, 4, D_IN, seed=9, dtype=dtype).detach()

    def loss(values: tuple[Tensor, ...], x: Tensor) -> Tensor:
        W, b, *rest = values
        v = with_factors(u, *rest)
        return (dual_lora_linear(x, W, b, [v]).square() + dual_lora_weight(W, [v]).sum()).sum()

    values = (weight, bias, *factors(u))
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(values, x)
    for i, sample in enumerate(x):
        expected = torch.autograd.grad(loss(values, sample), values)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=1e-4, atol=1e-4)


def test_vmap_over_inputs_and_over_adapters() -> None:
    u, weight = make_update(Rule()), normal(D_OUT, D_IN, seed=8)
    x, As = normal(6, D_IN, seed=9), normal(6, 2, D_IN, seed=10)
    ours = torch.func.vmap(lambda x, A: dual_lora_linear(x, weight, None, [u._replace(A=A)]))(x, As)
    expected = [dual_lora_linear(x[i], weight, None, [u._replace(A=As[i])]) for i in range(6)]
    torch.testing.assert_close(ours, torch.stack(expected))


def linear_of(u: Update, bias: bool) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    inputs = (normal(3, D_IN, seed=8), normal(D_OUT, D_IN, seed=9), normal(D_OUT, seed=7))
    if bias:
        return lambda x, W, b, *rest: dual_lora_linear(x, W, b, [with_factors(u, *rest)]), inputs
    return lambda x, W, *rest: dual_lora_linear(x, W, None, [with_factors(u, *rest)]), inputs[:2]


@pytest.mark.parametrize("bias", [False, True])
@smooth
def test_second_gradients_are_those_of_finite_differences(rule: Rule, bias: bool) -> None:
    u = make_update(rule)
    function, inputs = linear_of(u, bias)
    assert torch.autograd.gradgradcheck(function, (*inputs, *factors(u)))
    weight = normal(D_OUT, D_IN, seed=9)
    of_weight = lambda W, *rest: dual_lora_weight(W, [with_factors(u, *rest)])  # noqa: E731
    assert torch.autograd.gradgradcheck(of_weight, (weight, *factors(u)))


@rules
def test_gradients_that_can_be_differentiated_are_the_ordinary_ones(rule: Rule) -> None:
    u = make_update(rule)
    x, weight = 3 * normal(3, D_IN, seed=8), normal(D_OUT, D_IN, seed=9)
    inputs = (x, weight, *factors(u))
    loss = dual_lora_linear(x, weight, None, [u]).square().sum()
    expected = torch.autograd.grad(loss, inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs, create_graph=True), expected)


def test_gradient_penalty_on_the_input_of_a_frozen_adapter() -> None:
    u = make_update(Rule())
    frozen = with_factors(u, *(factor.detach() for factor in factors(u)))
    x, weight = normal(3, D_IN, seed=8), normal(D_OUT, D_IN, seed=9).detach()
    effective = weight + reference_delta(frozen)[0]
    penalties = []
    for y in (dual_lora_linear(x, weight, None, [frozen]), x @ effective.T):
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        penalties += torch.autograd.grad(slope.square().sum(), x)
    torch.testing.assert_close(*penalties)
