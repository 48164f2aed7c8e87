"""The Triton kernels against the float64 formulas: on a GPU where there is one, else as Triton interprets them.

Shapes are ragged and take several tiles, strips and bands in both kernels.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from repro.adapters.dual_lora import Rule, Update, backend
from repro.adapters.dual_lora.update import _Term, dual_lora_linear, random_signs, updated_weight
from tests.adapters.dual_lora.reference import RULES, reference_delta, reference_gradients

kernels = pytest.importorskip(
    "repro.adapters.dual_lora.kernels",
    reason="Triton is made for Linux on x86_64 only, and its kernels need it",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# With bands of 2 tiles of 64 rows these are three bands; 197 columns are two strips and end inside a word of 32 random signs.
D_OUT, D_IN, TOKENS = 2 * 128 + 7, 197, 11


@pytest.fixture(autouse=True)
def kernels_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "DEVICES", {"cuda", "cpu"})
    monkeypatch.setattr(kernels, "_ROW_TILES", 2)


def make_update(rule: Rule, seed: int = 0, ranks: tuple[int, int] = (3, 5), scale: float = 1.7) -> Update:
    """In fp32, spread so that D C has numbers on both sides of the |D C| = 1 of the bnn clip."""
    generator = torch.Generator().manual_seed(seed)
    r1, r2 = ranks
    shapes = {"A": (r1, D_IN), "B": (D_OUT, r1), "C": (r2, D_IN), "D": (D_OUT, r2)}
    factors = {
        name: (torch.randn(shape, generator=generator) / min(shape) ** 0.25).to(DEVICE).requires_grad_()
        for name, shape in shapes.items()
    }
    s = torch.tensor(scale, device=DEVICE)
    if rule.direction == "fixed":
        return Update(rule, s, factors["A"], factors["B"], seed=torch.tensor(2**62 - 12345, device=DEVICE))
    return Update(rule, s, **factors)


def make_weight(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(D_OUT, D_IN, generator=generator).to(DEVICE, dtype)


def make_gradient(rms: float, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (rms * torch.randn(D_OUT, D_IN, generator=generator)).to(DEVICE, dtype)


def gradients(u: Update, G: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        kernels = backend.kernels([u.A, u.B], G)
        return dict(zip("ABCD", kernels.gradients(G, _Term(u)), strict=False))


def assert_close(found: Tensor, expected: Tensor, epsilon: float) -> None:
    """Sums of n numbers in a precision of epsilon: the error of each against the whole, as they cancel."""
    assert (found.double() - expected).norm() <= epsilon * expected.norm()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_weight_matches_the_dense_formula(rule: Rule) -> None:
    u, weight = make_update(rule), make_weight()
    expected = weight.double() + reference_delta(u)[0].detach()
    torch.testing.assert_close(updated_weight(weight, [u]).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rms", [0.01, 10.0], ids=["small gradient", "large gradient"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_gradients_match_the_dense_formulas(rule: Rule, rms: float) -> None:
    u, G = make_update(rule), make_gradient(rms)
    found, expected = gradients(u, G), reference_gradients(u, G.double())
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == torch.float32
        assert_close(found[name], expected[name], 1e-5)
