"""The update and its layer against the paper's formulas, written out on dense float64 matrices."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repro.adapters.dual_lora import Rule, Update, backend, c_kernels, delta_weight, plain, terms
from repro.adapters.dual_lora.plain import random_signs
from repro.adapters.dual_lora.update import dual_lora_linear, updated_weight
from tests.adapters.dual_lora.reference import RULES, reference_delta, reference_gradients

D_OUT, D_IN, TOKENS = 13, 37, 11


def make_update(rule: Rule, seed: int = 0, dtype: torch.dtype = torch.float64) -> Update:
    # Factors of std 0.7 at ranks 3 and 5 spread D C over both sides of the |D C| = 1 of the bnn clip.
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (3, D_IN), "B": (D_OUT, 3), "C": (5, D_IN), "D": (D_OUT, 5)}
    factors = {n: 0.7 * torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    factors = {name: factor.to(dtype).requires_grad_() for name, factor in factors.items()}
    scale = 1.7
    if rule.direction == "fixed":
        return Update(rule, scale, factors["A"], factors["B"], seed=torch.tensor(12345))
    return Update(rule, scale, **factors)


def make_layer(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(1, TOKENS, D_IN, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(D_OUT, D_IN, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(D_OUT, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return x, weight, bias


@pytest.fixture(params=[2**20, 100], ids=["one block", "ragged blocks"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """100 elements make blocks of 2 rows (13 = 6 * 2 + 1) and of 7 columns (37 = 5 * 7 + 2)."""
    monkeypatch.setattr(terms, "CPU_BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("gradient_rms", [0.01, 10.0], ids=["small gradient", "large gradient"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_layer_matches_the_dense_formulas(rule: Rule, gradient_rms: float, block: int) -> None:
    u = make_update(rule)
    x, weight, bias = make_layer()
    dy = torch.randn(1, TOKENS, D_OUT, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    G = (dy[0].T @ x[0]).detach()
    dy, G = dy * gradient_rms / G.square().mean().sqrt(), G * gradient_rms / G.square().mean().sqrt()

    y = dual_lora_linear(x, weight, bias, [u])
    y.backward(dy)

    effective = weight + reference_delta(u)[0].detach()
    torch.testing.assert_close(y, x @ effective.T + bias)
    torch.testing.assert_close(x.grad, dy @ effective)
    torch.testing.assert_close(bias.grad, dy.sum((0, 1)))
    for name, expected in reference_gradients(u, G).items():
        torch.testing.assert_close(getattr(u, name).grad, expected)


def test_clips_differ_only_where_gradients_are_large() -> None:
    # Guards the test above: at RMS 10 the clips must bind and disagree, at 0.01 the paper's two must not.
    G = torch.randn(D_OUT, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = {
        (clip, rms): reference_gradients(make_update(Rule(clip=clip)), rms * G)["C"]
        for clip in ("eq7", "eq12", "bnn", "none")
        for rms in (0.01, 10.0)
    }
    for clip in ("eq7", "eq12"):
        torch.testing.assert_close(found[clip, 0.01], found["none", 0.01])
        assert not torch.allclose(found[clip, 10.0], found["none", 10.0], rtol=0.1)
    assert not torch.allclose(found["bnn", 0.01], found["none", 0.01], rtol=0.1)
    assert not torch.allclose(found["eq7", 10.0], found["eq12", 10.0], rtol=0.1)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_delta_weight_and_its_blocks(rule: Rule) -> None:
    u = make_update(rule)
    expected = reference_delta(u)[0].detach()
    torch.testing.assert_close(delta_weight(u), expected)
    torch.testing.assert_close(delta_weight(u, rows=slice(3, 8)), expected[3:8])
    torch.testing.assert_close(delta_weight(u, columns=slice(5, 36)), expected[:, 5:36])


def test_sign_of_zero_is_minus_one_and_relu_has_no_slope_at_zero() -> None:
    u = make_update(Rule())
    with torch.no_grad():
        u.A.zero_()
        u.C.zero_()
    shifted = u._replace(A=torch.ones_like(u.A), B=torch.ones_like(u.B))
    assert torch.equal(delta_weight(shifted), torch.full((D_OUT, D_IN), -3 * 1.7, dtype=torch.float64))

    x, weight, _ = make_layer()
    dual_lora_linear(x, weight, None, [u]).sum().backward()
    assert u.A.grad.count_nonzero() == 0  # through P = 0 everywhere
    assert u.B.grad.count_nonzero() == 0


def test_updates_add_up(block: int) -> None:
    updates = [
        make_update(Rule(), seed=0),
        make_update(RULES["xnor"], seed=1),
        make_update(RULES["fixed"], seed=2),
    ]
    x, weight, bias = make_layer()
    dy = torch.randn(1, TOKENS, D_OUT, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = dual_lora_linear(x, weight, bias, updates)
    y.backward(dy)

    effective = weight + sum(reference_delta(u)[0] for u in updates)
    torch.testing.assert_close(y, x @ effective.T + bias)
    torch.testing.assert_close(x.grad, dy @ effective)
    torch.testing.assert_close(updated_weight(weight, updates), effective.detach())
    for u in updates:
        for name, expected in reference_gradients(u, (dy[0].T @ x[0]).detach()).items():
            torch.testing.assert_close(getattr(u, name).grad, expected)


def test_gradients_go_only_where_they_are_asked_for() -> None:
    x, weight, _ = make_layer()
    u = make_update(Rule())
    for factor in (u.A, u.B, u.C):
        factor.requires_grad_(False)
    dual_lora_linear(x.detach(), weight, None, [u]).sum().backward()
    assert u.D.grad is not None and u.A.grad is None and x.grad is None

    u.D.requires_grad_(False)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        dual_lora_linear(x, weight, None, [u]).sum().backward()
    assert x.grad is not None and x.data_ptr() not in {t.data_ptr() for t in saved}  # only G would need x

    weight.requires_grad_()
    y = dual_lora_linear(x, weight, None, [u])
    y.sum().backward()
    torch.testing.assert_close(
        weight.grad, torch.ones(1, D_OUT, TOKENS, dtype=torch.float64)[0] @ x[0].detach()
    )


@pytest.mark.parametrize("leading", [(), (TOKENS,), (2, 3), (2, 2, 2), (0,)])
def test_any_leading_shape(leading: tuple[int, ...]) -> None:
    _, weight, bias = make_layer()
    u = make_update(Rule())
    x = torch.randn(*leading, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.linear(x, weight + reference_delta(u)[0], bias)
    torch.testing.assert_close(dual_lora_linear(x, weight, bias, [u]), expected)


def test_layer_used_twice_sums_its_gradients() -> None:
    u = make_update(Rule(clip="none"))
    x, weight, _ = make_layer()
    y = dual_lora_linear(x, weight, None, [u])
    (y.sum() + 2 * dual_lora_linear(x, weight, None, [u]).sum()).backward()
    G = 3 * torch.ones(D_OUT, TOKENS, dtype=torch.float64) @ x[0].detach()
    for name, expected in reference_gradients(u, G).items():
        torch.testing.assert_close(getattr(u, name).grad, expected)


def test_bf16_weight_is_rounded_once() -> None:
    # The factors stay in fp32. W is rounded to bf16 (a relative 2**-9) and so is y (2**-9 of it).
    u = make_update(Rule(clip="none"), dtype=torch.float32)
    x, weight, bias = make_layer(torch.bfloat16)
    y = dual_lora_linear(x, weight, bias, [u])
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    y.backward(dy)

    exact = weight.double() + reference_delta(u)[0].detach()
    effective = updated_weight(weight, [u])
    assert effective.dtype == y.dtype == x.grad.dtype == torch.bfloat16
    assert torch.equal(effective, exact.bfloat16())
    expected = x.double() @ effective.double().T + bias.double()
    bound = 2**-8 * (x.double().abs() @ effective.double().abs().T + bias.double().abs())
    assert (y.double() - expected).abs().le(bound).all()
    # G is a bf16 matrix product, as in an ordinary bf16 layer: errors of some 2**-9 that partly cancel in dA.
    for name, gradient in reference_gradients(u, (dy[0].double().T @ x[0].double()).detach()).items():
        assert getattr(u, name).grad.dtype == torch.float32
        assert (getattr(u, name).grad - gradient).norm() < 2**-7 * gradient.norm()


def test_autocast_computes_in_its_dtype_but_the_update_in_fp32() -> None:
    u = make_update(Rule(clip="none"), dtype=torch.float32)
    x, weight, bias = make_layer(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = dual_lora_linear(x, weight, bias, [u])
        y.sum().backward()
    exact = (weight.double() + reference_delta(u)[0].detach()).bfloat16().double()
    assert y.dtype == torch.bfloat16 and x.grad.dtype == torch.float32
    bound = 2**-7 * (x.double().abs() @ exact.abs().T + bias.double().abs())
    assert (y.double() - (x.bfloat16().double() @ exact.T + bias.double())).abs().le(bound).all()


def test_weight_may_be_unpacked_in_each_pass() -> None:
    u = make_update(Rule())
    x, weight, bias = make_layer()
    calls = []

    def unpack() -> Tensor:
        calls.append(None)
        return weight.clone()

    stored: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        y = dual_lora_linear(x, unpack, bias, [u])
    y.sum().backward()
    assert len(calls) == 2
    assert not [t for t in stored if t.numel() >= weight.numel()]
    torch.testing.assert_close(y, x @ (weight + reference_delta(u)[0]).T + bias)
    torch.testing.assert_close(x.grad, (weight + reference_delta(u)[0].detach()).sum(0).expand_as(x))


@pytest.mark.parametrize("code", [plain, c_kernels], ids=["torch", "c"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nothing_dense_is_saved_or_made(rule: Rule, code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    d, k, block = 64, 256, 2048
    monkeypatch.setattr(terms, "CPU_BLOCK", block)
    monkeypatch.setattr(c_kernels, "_BLOCK", block)
    if code is c_kernels and not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    monkeypatch.setattr(backend, "choose", lambda *_: code)
    shapes = {"A": (2, k), "B": (d, 2), "C": (2, k), "D": (d, 2)}
    factors = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    u = Update(rule, 1.0, **factors)
    if rule.direction == "fixed":
        u = Update(rule, 1.0, factors["A"], factors["B"], seed=torch.tensor(1))
    x, weight = torch.randn(3, k, requires_grad=True), torch.randn(d, k)
    saved: list[Tensor] = []
    with LargestTensor(weight) as largest:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            y = dual_lora_linear(x, weight, None, [u])
        y.sum().backward()
    assert {t.data_ptr() for t in saved if t.numel() >= weight.numel()} == {weight.data_ptr()}
    assert sum(t.numel() for t in saved) - weight.numel() <= x.numel() + 4 * (d + k) + 2
    assert largest.numel <= 2 * block < weight.numel()  # twice: a mask is made of whole words of 32 columns


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that operations give back, views of `allowed` apart."""

    def __init__(self, allowed: Tensor) -> None:
        super().__init__()
        self.allowed, self.numel = allowed.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() != self.allowed:
            self.numel = max(self.numel, result.numel())
        return result


def test_random_signs_are_even_independent_and_the_same_in_blocks() -> None:
    signs = random_signs(torch.tensor(99), 256, 1000)
    assert set(signs.unique().tolist()) == {-1, 1}
    # The mean of n independent signs has a standard deviation of 1 / sqrt(n): 5 of them are allowed.
    values = signs.double()
    assert abs(values.mean()) < 5 / math.sqrt(values.numel())
    for shift in (1, 31, 32, 33):
        assert abs((values * values.roll(shift, 1)).mean()) < 5 / math.sqrt(values.numel())
        assert abs((values * values.roll(shift, 0)).mean()) < 5 / math.sqrt(values.numel())
    other = random_signs(torch.tensor(100), 256, 1000).double()
    assert abs((values * other).mean()) < 5 / math.sqrt(values.numel())
    assert torch.equal(
        random_signs(torch.tensor(99), 256, 1000, slice(3, 70), slice(45, 97)), signs[3:70, 45:97]
    )


def test_random_signs_are_the_bits_of_splitmix64() -> None:
    state, mask = 1234567, 2**64 - 1
    state = state * 0x9E3779B97F4A7C15 & mask
    z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    z ^= z >> 31
    bits = [1 if z >> i & 1 else -1 for i in range(32)]
    assert random_signs(torch.tensor(1234567), 1, 32)[0].tolist() == bits
