"""W0 + dW kept for one optimiser step: built once a layer, with the gradients of passes that build it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from repro.adapters.dual_lora import DualLoraLayer, backend, blocks, kept_weights

VARIANTS = {
    "paper": {},
    "xnor": {"sign_estimator": "xnor", "clip": "none"},
    "fixed": {"direction": "fixed", "direction_rank": None},
    "subtract": {"warmup": "subtract_initial"},
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each whole W0 + dW that is built to be kept."""
    seen: list[int] = []
    whole = blocks.updated_weight
    monkeypatch.setattr(blocks, "updated_weight", lambda *a: seen.append(1) or whole(*a))
    return seen


def passes(model: PeftModel, batches: list[Tensor], *, kept: bool) -> dict[str, Tensor]:
    """The gradients of one optimiser step with a batch for each entry."""
    # Without an optimiser, a ramp's counter would be written to in every pass, and the weight built again.
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0).step()
    for module in model.modules():
        if isinstance(module, DualLoraLayer):
            for step in module.dual_lora_step.values():
                step.zero_()
    model.zero_grad()
    with kept_weights(model) if kept else nullcontext():
        for batch in batches:
            model(input_ids=batch, labels=batch).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["stored", "reentrant", "checkpointed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kept_weights_change_no_gradient(
    variant: str, checkpointing: bool | None, dual_llama: Callable[..., PeftModel], built: list[int]
) -> None:
    model = dual_llama(**VARIANTS[variant]).train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    batches = [torch.randint(0, 31, (2, 7), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with backend.torch_only():  # by the same products in every pass
        expected = passes(model, batches, kept=False)
        assert not built
        found = passes(model, batches, kept=True)
    layers = [module for module in model.modules() if isinstance(module, DualLoraLayer)]
    assert len(built) == len(layers)
    assert all(layer.kept_weights is None for layer in layers)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_a_change_of_a_factor_is_seen(dual_llama: Callable[..., PeftModel], tokens: Tensor) -> None:
    model = dual_llama(warmup="none").eval()
    with kept_weights(model):
        before = model(tokens).logits
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "dual_lora_B" in name:
                    parameter.mul_(-1)
        after = model(tokens).logits
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(tokens).logits)


def test_other_factors_and_another_mode_have_a_weight_of_their_own(
    dual_llama: Callable[..., PeftModel], tokens: Tensor
) -> None:
    model = dual_llama(warmup_steps=10).train()
    swapped = {n: -p.detach() for n, p in model.named_parameters() if "dual_lora_A" in n}

    def outputs() -> list[Any]:
        ramped = model(tokens).logits
        other = torch.func.functional_call(model, swapped, (tokens,)).logits
        whole = model.eval()(tokens).logits
        model.train()
        return [ramped, other, whole]

    expected = outputs()
    with kept_weights(model):
        found = outputs()
    for one, another in zip(found, expected, strict=True):
        torch.testing.assert_close(one, another)


def test_a_backward_pass_after_the_step_builds_the_weight_again(
    dual_llama: Callable[..., PeftModel], tokens: Tensor
) -> None:
    model = dual_llama().train()
    expected = passes(model, [tokens], kept=False)
    model.zero_grad()
    with kept_weights(model):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])
