"""Delta-LoRA over several steps: against the published loop in float64, against peft's LoRA, and resumed."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from repro.adapters.delta_lora import DeltaLoraConfig
from repro.methods import OptimizerSettings
from repro.methods.delta_lora import DeltaLoRA
from repro.training.finetuning import trained_state

RANK, ALPHA, RATIO = 2, 6.0, 0.7
SCALE = ALPHA / RANK
ADAM = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
LEARNING_RATE = 0.05
SETTINGS = OptimizerSettings(learning_rate=LEARNING_RATE, **ADAM)

torch.manual_seed(0)
BASE = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
X, Y = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)


def method(start_step: int) -> DeltaLoRA:
    return DeltaLoRA(rank=RANK, alpha=ALPHA, update_ratio=RATIO, start_step=start_step)


def adapted(start_step: int) -> Any:
    torch.manual_seed(1)
    config = DeltaLoraConfig(
        rank=RANK, alpha=ALPHA, update_ratio=RATIO, start_step=start_step, target_modules=["0", "2"]
    )
    return get_peft_model(copy.deepcopy(BASE), config).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        (model(X) - Y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("start_step", [0, 1, 3, 100])
def test_the_weights_are_those_of_the_published_loop(start_step: int) -> None:
    steps = 7
    model = adapted(start_step)
    layers = method(start_step).adapted_layers(model)
    weights = [BASE[i].weight.detach().clone() for i in (0, 2)]
    factors = [
        [nn.Parameter(p.detach().clone()) for p in layer.parameters() if p.requires_grad] for layer in layers
    ]
    for A, B in factors:
        assert A.shape[0] == B.shape[1] == RANK
    train(model, method(start_step).optimizer(model, SETTINGS), steps)

    def products() -> list[Tensor]:
        return [SCALE * B @ A for A, B in factors]

    adamw = torch.optim.AdamW([p for pair in factors for p in pair], lr=LEARNING_RATE, **ADAM)
    for t in range(1, steps + 1):
        first, second = (W + product for W, product in zip(weights, products(), strict=True))
        hidden = (X @ first.T + BASE[0].bias.detach()).tanh()
        (hidden @ second.T + BASE[2].bias.detach() - Y).square().mean().backward()
        before = [product.detach() for product in products()]
        adamw.step()
        adamw.zero_grad()
        if t > start_step:
            for W, old, new in zip(weights, before, products(), strict=True):
                W += RATIO * (new.detach() - old)

    output = model(X).detach()
    merged = model.merge_and_unload()
    for i, W, product in zip((0, 2), weights, products(), strict=True):
        torch.testing.assert_close(merged[i].weight, W + product, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(merged[i].weight, BASE[i].weight, atol=1e-2)
    torch.testing.assert_close(merged(X), output, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("steps", "same"), [(4, True), (5, False)])
def test_up_to_the_start_step_it_is_lora(steps: int, same: bool) -> None:
    """Step 5 is the first to move the weight."""
    ours = adapted(start_step=4)
    lora = get_peft_model(
        copy.deepcopy(BASE), LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=["0", "2"])
    )
    with torch.no_grad():
        for p, q in zip(ours.parameters(), lora.parameters(), strict=True):
            q.copy_(p)
    train(ours, method(4).optimizer(ours, SETTINGS), steps)
    trained = [p for p in lora.parameters() if p.requires_grad]
    train(lora, torch.optim.AdamW(trained, lr=LEARNING_RATE, **ADAM), steps)
    assert torch.allclose(ours(X), lora(X), rtol=1e-12, atol=1e-14) == same


@pytest.mark.parametrize("interrupted", [1, 3, 5])
def test_resuming_from_what_a_checkpoint_holds_repeats_every_bit(interrupted: int) -> None:
    start_step, steps = 3, 8
    model = adapted(start_step)
    optimizer = method(start_step).optimizer(model, SETTINGS)
    train(model, optimizer, interrupted)
    file = io.BytesIO()
    torch.save((trained_state(model), optimizer.state_dict()), file)
    train(model, optimizer, steps - interrupted)

    file.seek(0)
    state, optimizer_state = torch.load(file)
    resumed = adapted(start_step)
    resumed.load_state_dict(state, strict=False)
    optimizer = method(start_step).optimizer(resumed, SETTINGS)
    optimizer.load_state_dict(optimizer_state)
    train(resumed, optimizer, steps - interrupted)
    assert torch.equal(resumed(X), model(X))
    frozen = [layer.base_layer.weight for layer in method(start_step).adapted_layers(model)]
    assert all(torch.equal(W, BASE[i].weight) for i, W in zip((0, 2), frozen, strict=True))
