"""What the Triton kernels do for a layer at once: the ramp, packed signs, operators, memory for the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from repro.adapters.dual_lora import Rule, Update, backend
from repro.adapters.dual_lora.terms import Term
from tests.adapters.dual_lora.reference import RULES
from tests.adapters.dual_lora.with_triton import triton_kernels

kernels = triton_kernels()

pytestmark = pytest.mark.usefixtures("device")

# A test on a GPU sees one, and no other test (tests/conftest.py).
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Four tiles of one program; those at the ends are incomplete.
D_OUT, D_IN = 70, 100


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def update(rule: Rule, **fields: Any) -> Update:
    if rule.direction == "fixed":
        seed = torch.tensor(2**62 - 12345, device=DEVICE)
        return Update(rule, 1.7, tensor(3, D_IN), tensor(D_OUT, 3), seed=seed, **fields)
    factors = tensor(3, D_IN), tensor(D_OUT, 3), tensor(5, D_IN), tensor(D_OUT, 5, seed=1)
    return Update(rule, 1.7, *factors, **fields)


@pytest.mark.parametrize("name", ["paper", "bnn", "plain direction", "fixed"])
def test_a_layer_at_once_is_the_layer_as_a_term(name: str) -> None:
    u, weight, G = update(RULES[name]), tensor(D_OUT, D_IN, seed=2), tensor(D_OUT, D_IN, seed=3)
    expected, ((*gradients,),) = kernels.backward(G, [Term(u)], [True], weight)
    torch.testing.assert_close(kernels.whole_weight(weight, u, torch.float32)[0], expected)
    updated, found = kernels.whole_backward(G, weight, u)
    assert torch.equal(updated, expected)
    assert all(map(torch.equal, found, gradients))
    alone, again = kernels.whole_backward(G, None, u)
    assert alone is None
    assert all(map(torch.equal, again, gradients))


def test_packed_signs_take_the_place_of_the_product() -> None:
    u, weight, G = update(Rule()), tensor(D_OUT, D_IN, seed=2), tensor(D_OUT, D_IN, seed=3)
    u.D[7] = 0  # Sign(0) = -1
    expected, signs = kernels.whole_weight(weight, u, torch.float32, with_signs=True)
    assert signs.shape == (D_OUT, 4)
    bits = (signs[:, :, None] >> torch.arange(32, device=DEVICE)) & 1
    assert torch.equal(bits.flatten(1)[:, :D_IN] == 1, u.D @ u.C > 0)
    assert not bits.flatten(1)[:, D_IN:].any()
    updated, found = kernels.whole_backward(G, weight, u, signs)
    torch.testing.assert_close(updated, expected)
    assert all(map(torch.equal, found, kernels.whole_backward(G, weight, u)[1]))
    # They are read: the opposite signs give the opposite dW.
    torch.testing.assert_close(kernels.whole_backward(G, weight, u, ~signs)[0], 2 * weight - expected)


@pytest.mark.parametrize("name", ["bnn", "plain direction", "fixed"])
def test_a_rule_that_needs_more_than_signs_has_none(name: str) -> None:
    weight = tensor(D_OUT, D_IN)
    assert kernels.whole_weight(weight, update(RULES[name]), torch.float32, with_signs=True)[1] is None


@pytest.mark.parametrize(("ended", "strength"), [(0, 0.125), (2, 0.375), (100, 1.0)])
def test_the_ramp_follows_the_counter(ended: int, strength: float) -> None:
    step = torch.tensor(ended, device=DEVICE)
    u, weight, G = update(Rule(clip="none")), tensor(D_OUT, D_IN, seed=2), tensor(D_OUT, D_IN, seed=3)
    ramped = u._replace(step=step, warmup_steps=8)
    # The strength is a power of two, or the scale times it is rounded alike.
    plain = u._replace(scale=float(torch.tensor(u.scale) * strength))
    expected, gradients = kernels.whole_backward(G, weight, plain)
    updated, found = kernels.whole_backward(G, weight, ramped)
    assert torch.equal(updated, expected)
    assert all(map(torch.equal, found, gradients))


@pytest.mark.parametrize("ranks", [(8, 8), (16, 16), (32, 32), (64, 64), (1, 64)])
@pytest.mark.parametrize(
    "shape", [(4096, 4096), (11008, 4096), (1024, 4096), (28672, 8192), (576, 192), (4097, 33), (1, 5)]
)
def test_parts_need_no_more_memory_than_a_gradient_in_16_bits(
    shape: tuple[int, int], ranks: tuple[int, int]
) -> None:
    (d, k), (r1, r2) = shape, ranks
    compiled_for = (Rule(), ranks, True, True, False, (0, 0, 0))
    dtypes = torch.bfloat16, torch.bfloat16
    launches = kernels.triton_launch._gradient_launches
    *_, numbers = launches(-1, d, k, (k, 1, k, 1), dtypes, (False, True), compiled_for)
    # 4 (r1 + r2) bytes for each 128 weights of a row and of a column: at r1 + r2 = 32 two bytes a weight.
    across, down = -(-k // 128) * 128, -(-d // 128) * 128
    assert 4 * numbers <= 4 * (r1 + r2) * (across * d + down * k) / 128
    if (d % 128, k % 128, r1 + r2) == (0, 0, 32):
        assert 4 * numbers <= 2 * d * k


@pytest.mark.parametrize("name", ["paper", "fixed"])
def test_the_operator_of_the_weight_is_differentiable(name: str) -> None:
    u, weight, G = update(RULES[name]), tensor(D_OUT, D_IN, seed=2), tensor(D_OUT, D_IN, seed=3)
    inputs = [weight, *u.factors]
    for one in inputs:
        one.requires_grad_()
    torch.ops.repro.dual_lora_weight(weight, *kernels._taken_apart(u), torch.float32).backward(G)
    expected = [G, *kernels.whole_backward(G, None, u)[1]]
    assert all(torch.equal(one.grad, gradient) for one, gradient in zip(inputs, expected, strict=True))


def test_the_operators_hold_their_promises_and_compile_whole() -> None:
    u, weight, G = update(Rule()), tensor(D_OUT, D_IN, seed=2), tensor(D_OUT, D_IN, seed=3)
    u = u._replace(step=torch.tensor(3, device=DEVICE), warmup_steps=10)
    fields, checks = kernels._taken_apart(u), ("test_schema", "test_faketensor")
    operators = torch.ops.repro
    torch.library.opcheck(
        operators.dual_lora_weight.default, (weight, *fields, torch.bfloat16), test_utils=checks
    )
    torch.library.opcheck(operators.dual_lora_backward.default, (G, None, *fields), test_utils=checks)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def passes(weight: Tensor, G: Tensor) -> Any:
        return kernels.whole_weight(weight, u, torch.float32), kernels.whole_backward(G, weight, u)

    (forward, signs), (updated, gradients) = passes(weight, G)
    assert signs is None
    expected, found = kernels.whole_backward(G, weight, u)
    torch.testing.assert_close(forward, expected)
    assert torch.equal(updated, expected)
    assert all(map(torch.equal, gradients, found))


def test_a_whole_llama_compiles_through_the_operators(
    dual_llama: Callable[..., PeftModel], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one graph, with the bits of the eager passes, also after the ramp has gone on."""
    monkeypatch.setattr(backend, "TRITON_DEVICES", {"cpu", "cuda"})
    torch._dynamo.reset()
    model, tokens = dual_llama(warmup_steps=5).to(DEVICE).train(), tokens.to(DEVICE)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0)
    optimizer.step()

    def loss_and_gradients(called: Callable[..., Any]) -> list[Tensor]:
        loss = called(input_ids=tokens, labels=tokens).loss
        return [loss.detach(), *torch.autograd.grad(loss, trained)]

    launches: list[int] = []
    launch = kernels.triton_launch.updated_weight
    monkeypatch.setattr(kernels.triton_launch, "updated_weight", lambda *a: launches.append(1) or launch(*a))
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    for _ in range(2):
        expected, found = loss_and_gradients(model), loss_and_gradients(compiled)
        assert all(map(torch.equal, found, expected))
        optimizer.step()
    assert graphs.frame_count == 1
    assert len(launches) == 2 * 2 * 10  # ten adapted maps, eager and compiled, twice
