"""The kernels against the float64 formulas: C on a CPU, Triton interpreted on a CPU and compiled on a GPU."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from repro.adapters.dual_lora import Rule, Update, backend, c_kernels, plain
from repro.adapters.dual_lora.terms import Term
from repro.adapters.dual_lora.update import dual_lora_linear, updated_weight
from tests.adapters.dual_lora.reference import RULES, reference_delta, reference_gradients
from tests.adapters.dual_lora.with_triton import triton_kernels

# Triton: two bands of 128 rows and two strips of 128 columns, of which the last ends inside a word of signs.
# C: five bands of rows and one panel of columns, both incomplete at the end.
D_OUT, D_IN, TOKENS = 128 + 7, 197, 11


@pytest.fixture(params=["c", "triton", pytest.param("cuda", marks=pytest.mark.gpu)], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernels of each language in turn: `triton` interpreted, `cuda` compiled."""
    if request.param != "c":
        module = triton_kernels()
    else:
        module = c_kernels
        if not shutil.which("cc"):
            pytest.skip("there is no C compiler")
    monkeypatch.setattr(backend, "choose", lambda *_: module)
    return module


def device() -> str:
    """All tests here compute on the GPU where they may see one (tests/conftest.py)."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_update(rule: Rule, seed: int = 0, ranks: tuple[int, int] = (3, 5), scale: float = 1.7) -> Update:
    """In fp32, scaled so that D C has elements on both sides of the bnn clip's |D C| = 1."""
    generator = torch.Generator().manual_seed(seed)
    r1, r2 = ranks
    shapes = {"A": (r1, D_IN), "B": (D_OUT, r1), "C": (r2, D_IN), "D": (D_OUT, r2)}
    factors = {
        name: (torch.randn(shape, generator=generator) / min(shape) ** 0.25).to(device()).requires_grad_()
        for name, shape in shapes.items()
    }
    if rule.direction == "fixed":
        seed_of_signs = torch.tensor(2**62 - 12345, device=device())
        return Update(rule, scale, factors["A"], factors["B"], seed=seed_of_signs)
    return Update(rule, scale, **factors)


def make_weight(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(D_OUT, D_IN, generator=generator).to(device(), dtype)


def make_gradient(rms: float, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (rms * torch.randn(D_OUT, D_IN, generator=generator)).to(device(), dtype)


def gradients(u: Update, G: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(zip("ABCD", backend.choose([], []).gradients(G, Term(u)), strict=False))


def assert_close(found: Tensor, expected: Tensor, epsilon: float) -> None:
    """Compares norms, because single elements are sums with cancellation and have larger relative errors."""
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


@pytest.mark.parametrize("ranks", [(1, 64), (16, 17), (33, 2)])
def test_any_ranks(ranks: tuple[int, int]) -> None:
    u, weight, G = make_update(Rule(), ranks=ranks), make_weight(), make_gradient(1.0)
    expected = weight.double() + reference_delta(u)[0].detach()
    torch.testing.assert_close(updated_weight(weight, [u]).double(), expected, rtol=1e-5, atol=1e-5)
    found = gradients(u, G)
    for name, gradient in reference_gradients(u, G.double()).items():
        assert_close(found[name], gradient, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_once(dtype: torch.dtype, kernels: Any) -> None:
    if dtype == torch.float16 and kernels is c_kernels:
        pytest.skip("on a CPU torch computes in fp16")
    u, weight = make_update(Rule()), make_weight(dtype)
    found, exact = updated_weight(weight, [u]), weight.double() + reference_delta(u)[0].detach()
    assert found.dtype == dtype
    # Triton's interpreter truncates to bf16 where a GPU rounds, so it can be off by a whole unit.
    cut = kernels is not c_kernels and (dtype, device()) == (torch.bfloat16, "cpu")
    units = 1.0 if cut else 0.5
    torch.testing.assert_close(found.double(), exact, rtol=units * torch.finfo(dtype).eps, atol=1e-5)

    G = make_gradient(1.0, dtype)
    gradient = gradients(u, G)
    for name, expected in reference_gradients(u, G.double()).items():
        # Triton multiplies two bf16 numbers in place of one in fp32, which leaves out 2**-16 of a product.
        assert_close(gradient[name], expected, 1e-5 if kernels is c_kernels else 2e-5)


@pytest.mark.parametrize("kernels", ["c"], indirect=True)
@pytest.mark.parametrize("ranks", [(3, 5), (16, 17), (33, 2)])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_gradients_of_sixteen_bits_are_as_exact(rule: Rule, ranks: tuple[int, int]) -> None:
    # On AMX, if the processor has it: products of numbers in two halves, where one half is off by 2**-9.
    u, G = make_update(rule, ranks=ranks), make_gradient(1.0, torch.bfloat16)
    for name, expected in reference_gradients(u, G.double()).items():
        assert_close(gradients(u, G)[name], expected, 2e-5)


@pytest.mark.parametrize("kernels", ["c"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_passes_the_caches(kernels: Any, dtype: torch.dtype) -> None:
    # More than 4 MiB in whole lines of 64 bytes: stored in another way than its single rows.
    generator = torch.Generator().manual_seed(0)
    d, k = 2100, 1024
    A, B, C, D, W, G = (torch.randn(s, generator=generator) for s in [(2, k), (d, 2)] * 2 + [(d, k)] * 2)
    term, weight = Term(Update(Rule(), 1.7, A, B, C, D)), W.to(dtype)
    with torch.no_grad():
        found = kernels.updated_weight(weight, [term], dtype)
        parts = [slice(row, row + 700) for row in range(0, d, 700)]
        small = [kernels.updated_weight(weight[p], [term.block(p, slice(None))], dtype) for p in parts]
        both, _ = kernels.backward(G.to(dtype), [term], [True], weight)
    assert torch.equal(found, torch.cat(small))
    assert torch.equal(found, both)


@pytest.mark.parametrize("kernels", ["c"], indirect=True)
def test_a_lack_of_memory_is_an_error(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        updated_weight = gradients = staticmethod(lambda *_: 1)

    monkeypatch.setattr(c_kernels, "_library", lambda *_: Full)
    u = make_update(Rule())
    for call in (lambda: updated_weight(make_weight(), [u]), lambda: gradients(u, make_gradient(1.0))):
        with pytest.raises(MemoryError, match=rf"shape \({D_OUT}, {D_IN}\)"):
            call()


def test_two_terms_are_rounded_once_and_cancel(kernels: Any) -> None:
    # dW - dW(0) of `subtract_initial`. Triton's interpreter does not round to bf16, and C has no fp16.
    dtype = torch.bfloat16 if kernels is c_kernels else torch.float16
    u, weight = make_update(Rule()), make_weight(dtype)
    initial = u._replace(scale=-u.scale)
    assert torch.equal(updated_weight(weight, [u, initial]), weight)
    other = make_update(Rule(), seed=1)
    exact = weight.double() + (reference_delta(u)[0] + reference_delta(other)[0]).detach()
    found = updated_weight(weight, [u, other]).double()
    torch.testing.assert_close(found, exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-5)


def test_a_transposed_weight_stays_transposed() -> None:
    u, weight = make_update(Rule()), make_weight().t().contiguous().t()
    found = updated_weight(weight, [u])
    assert found.stride() == weight.stride()
    assert torch.equal(found, updated_weight(weight.contiguous(), [u]))


@pytest.mark.parametrize("zero", ["factors", "not a number"])
def test_sign_of_zero_slope_at_zero_and_nan(zero: str) -> None:
    u = make_update(Rule(clip="none"))
    with torch.no_grad():
        u.C.zero_()
        u.B.fill_(1.0)
        u.A.fill_(1.0)
    weight, G = torch.zeros(D_OUT, D_IN, device=device()), make_gradient(1.0)
    assert torch.equal(updated_weight(weight, [u]), torch.full_like(weight, -1.7) * 3)
    with torch.no_grad():
        u.A.fill_(0.0 if zero == "factors" else float("nan"))
    if zero == "factors":
        assert gradients(u, G)["B"].count_nonzero() == gradients(u, G)["A"].count_nonzero() == 0
    else:
        assert updated_weight(weight, [u]).isnan().all()


def test_the_layer_takes_the_kernels_and_gives_what_torch_gives(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(5)
    x, dy = (torch.randn(2, TOKENS, n, generator=generator).to(device()) for n in (D_IN, D_OUT))
    bias = torch.randn(D_OUT, generator=generator).to(device())
    updates = [make_update(Rule()), make_update(RULES["xnor"], seed=1)]
    calls = {"updated_weight": 0, "gradients": 0}
    for name in calls:

        def counted(*a: object, name: str = name, call: object = getattr(kernels, name)) -> object:
            calls[name] += 1
            return call(*a)

        monkeypatch.setattr(kernels, name, counted)

    found = {}
    for code in (kernels, plain):
        monkeypatch.setattr(backend, "choose", lambda *_, code=code: code)
        inputs = [t.clone().requires_grad_() for t in (x, make_weight(), bias)]
        for u in updates:
            for factor in (u.A, u.B, u.C, u.D):
                factor.grad = None
        y = dual_lora_linear(*inputs, updates)
        y.backward(dy)
        factors = [f.grad for u in updates for f in (u.A, u.B, u.C, u.D)]
        found[code.NAME] = [y.detach(), *(t.grad for t in inputs), *factors]
    assert calls == {"updated_weight": 2, "gradients": 2}
    for one, other in zip(*found.values(), strict=True):
        assert_close(one, other.double(), 1e-5)


def test_the_same_inputs_give_the_same_bits() -> None:
    u, G = make_update(Rule()), make_gradient(1.0)
    for one, other in zip(gradients(u, G).values(), gradients(u, G).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kernels", ["c"], indirect=True)
@pytest.mark.parametrize("threads", [2, 5, 16])
def test_any_number_of_threads_and_blocks(
    kernels: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 16 threads for five bands of rows: some have none.
    u, weight, G = make_update(RULES["fixed"]), make_weight(), make_gradient(1.0)
    expected = {"W": updated_weight(weight, [u]), **gradients(u, G)}
    monkeypatch.setattr(c_kernels, "_BLOCK", 1000)  # blocks of 5 rows
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = {"W": updated_weight(weight, [u]), **gradients(u, G)}
    finally:
        torch.set_num_threads(before)
    for name, value in expected.items():
        assert_close(found[name], value.double(), 1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_blocks(rule: Rule, kernels: Any) -> None:
    # As in the backward pass: A, C and the weight are columns of a larger matrix.
    u, weight, G = make_update(rule), make_weight(), make_gradient(1.0)
    columns = slice(45 if kernels is c_kernels else 64, 149)  # Triton's blocks begin at a word
    with torch.no_grad():
        part = Term(u).block(slice(None), columns)
        found = kernels.updated_weight(weight[:, columns], [part], torch.float32)
        of_block = kernels.gradients(G[:, columns].contiguous(), part)
        rows = slice(32, 101)
        of_rows = kernels.updated_weight(weight[rows], [Term(u).block(rows, slice(None))], torch.float32)
    torch.testing.assert_close(found, updated_weight(weight, [u])[:, columns])
    torch.testing.assert_close(of_rows, updated_weight(weight, [u])[rows])
    outside = G.clone()
    outside[:, columns] = 0
    for name, gradient in zip("ABCD", of_block, strict=False):
        whole = gradients(u, G - outside)[name]
        assert_close(gradient, (whole[:, columns] if name in "AC" else whole).double(), 1e-6)
