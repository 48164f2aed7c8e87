"""An adapted layer and an adapted LLaMA on a CPU and on a GPU: right, repeatable, compiled and captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from repro.adapters.dual_lora import DualLoraConfig, Rule
from tests.adapters.dual_lora.reference import RULES, reference_delta, reference_gradients

# Two tiles of 64 rows and a part of a third; columns that end inside a word of random signs.
D_OUT, D_IN, TOKENS = 135, 99, 33

# Ranks (r1, r2) of the paper's rule, some of which a GPU pads to 16, 32 or 64.
RANKS = [(16, 17), (1, 64), (33, 2), (64, 64)]
CASES = {name: (rule, (3, 5)) for name, rule in RULES.items()} | {
    f"ranks {r1} and {r2}": (Rule(), (r1, r2)) for r1, r2 in RANKS
}


def adapted_linear(
    device: str, rule: Rule, ranks: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """A model of one adapted layer in training mode, at the full strength of its update, and that layer."""
    torch.manual_seed(51)  # no product of the factors is within 5e-5 of 0, where rounding would turn a sign
    base = nn.Sequential(nn.Linear(D_IN, D_OUT))
    config = DualLoraConfig(
        magnitude_rank=ranks[0],
        direction_rank=0 if rule.direction == "fixed" else ranks[1],
        alpha=0.2 * max(ranks),
        init_std=min(ranks) ** -0.25,
        warmup_steps=1,
        target_modules=["0"],
        **rule._asdict(),
    )
    model = get_peft_model(base.to(dtype=dtype), config).to(device).train()
    return model, model.base_model.model[0]


def inputs(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """An input x that requires a gradient, and dL/dy."""
    generator = torch.Generator().manual_seed(5)
    x, dy = (torch.randn(2, TOKENS, n, generator=generator).to(device, dtype) for n in (D_IN, D_OUT))
    return x.requires_grad_(), dy


def a_pass(model: nn.Module, layer: Any, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """y, and the gradients of x and of the factors."""
    y = model(x)
    return y.detach(), *torch.autograd.grad(y, [x, *layer.factors("default").values()], dy)


def assert_close(found: Tensor, expected: Tensor, epsilon: float) -> None:
    assert (found.double() - expected).norm() <= epsilon * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("rule", "ranks"), CASES.values(), ids=CASES)
def test_the_dense_formulas(rule: Rule, ranks: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    model, layer = adapted_linear(device, rule, ranks, dtype)
    x, dy = inputs(device, dtype)
    y, dx, *gradients = a_pass(model, layer, x, dy)

    (update,) = layer.updates("default")
    weight = layer.weight.double() + reference_delta(update)[0].detach()
    rows, G = x.detach().double(), torch.einsum("btd,btk->dk", dy.double(), x.detach().double())
    # In bf16 the sum W0 + dW, G and the results are rounded to 8 bits, 2**-9 of a number at most.
    epsilon = 1e-5 if dtype == torch.float32 else 2**-7
    assert_close(y, rows @ weight.T + layer.bias.double(), epsilon)
    assert_close(dx, dy.double() @ weight, epsilon)
    for gradient, expected in zip(gradients, reference_gradients(update, G).values(), strict=True):
        assert gradient.dtype == torch.float32
        assert_close(gradient, expected, epsilon)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_repeated_pass_gives_the_same_bits(dtype: torch.dtype, device: str) -> None:
    model, layer = adapted_linear(device, Rule(), (16, 17), dtype)
    one, other = (a_pass(model, layer, *inputs(device, dtype)) for _ in range(2))
    assert all(map(torch.equal, one, other))


def test_a_compiled_llama_gives_what_the_eager_one_gives(
    dual_llama: Callable[..., PeftModel], tokens: Tensor, device: str
) -> None:
    """In one graph; on a GPU with the code that Inductor generates, which takes too long on a CPU."""
    torch._dynamo.reset()
    model, tokens = dual_llama(warmup_steps=3).to(device).train(), tokens.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.optim.SGD(trained, lr=0.0).step()  # from now on an optimiser counts the ramp's steps

    def loss_and_gradients(called: Callable[..., Any]) -> tuple[Tensor, ...]:
        loss = called(input_ids=tokens, labels=tokens).loss
        return loss.detach(), *torch.autograd.grad(loss, trained)

    expected = loss_and_gradients(model)
    backend = "inductor" if device == "cuda" else "eager"
    found = loss_and_gradients(torch.compile(model, backend=backend, fullgraph=True))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def training_layer(rule: Rule, dtype: torch.dtype) -> tuple[Any, Any]:
    """A layer on the GPU whose factors an optimiser holds, as in training."""
    model, layer = adapted_linear("cuda", rule, dtype=dtype)
    torch.optim.SGD(layer.factors("default").values(), lr=0.0).step()
    return model, layer


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ["paper", "xnor", "dorefa", "fixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_pass_never_waits_for_the_gpu(rule: str, dtype: torch.dtype) -> None:
    model, layer = training_layer(RULES[rule], dtype)
    x, dy = inputs("cuda", dtype)
    a_pass(model, layer, x, dy)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        a_pass(model, layer, x, dy)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ["paper", "xnor", "dorefa", "fixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_captured_pass_replays_the_eager_bits(rule: str, dtype: torch.dtype) -> None:
    """Captured with one input and one strength of the ramp, replayed with others."""
    model, layer = training_layer(RULES[rule], dtype)
    layer.warmup_steps["default"] = 8
    x, dy = inputs("cuda", dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            a_pass(model, layer, x, dy)
    torch.cuda.current_stream().wait_stream(side)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = a_pass(model, layer, x, dy)
    before = [t.clone() for t in captured]
    with torch.no_grad():
        x.mul_(-2)
        layer.dual_lora_step["default"].add_(3)
        layer.factors("default")["B"].neg_()
    graph.replay()
    replayed = [t.clone() for t in captured]
    assert all(map(torch.equal, replayed, a_pass(model, layer, x, dy)))
    assert not any(map(torch.equal, replayed, before))
