"""Delta-LoRA's layer by itself: its orientation, dtypes, merging and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from repro.adapters.delta_lora import DeltaLoraConfig, DeltaLoraLayer

X = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))


def moved(layer: nn.Module) -> tuple[Any, DeltaLoraLayer]:
    """A model of one layer whose factors, now and at step K, are far from their start and from each other."""
    torch.manual_seed(0)
    config = DeltaLoraConfig(rank=2, alpha=3.0, update_ratio=0.5, target_modules=["0"])
    model = get_peft_model(nn.Sequential(layer), config)
    (adapted,) = (module for module in model.modules() if isinstance(module, DeltaLoraLayer))
    generator = torch.Generator().manual_seed(1)
    for name in ("delta_lora_A", "delta_lora_B", "delta_lora_start_A", "delta_lora_start_B"):
        factor = getattr(adapted, name)["default"]
        factor.data.copy_(torch.randn(factor.shape, generator=generator))
    return model, adapted


def pair() -> tuple[nn.Linear, Conv1D]:
    linear, transposed = nn.Linear(6, 4), Conv1D(4, 6)
    transposed.weight.data.copy_(linear.weight.data.T)
    transposed.bias.data.copy_(linear.bias.data)
    return linear, transposed


def test_a_transposed_layer_computes_and_merges_the_same() -> None:
    linear, transposed = pair()
    (one, _), (other, _) = moved(linear), moved(transposed)
    expected = one(X)
    torch.testing.assert_close(other(X), expected)
    torch.testing.assert_close(other.merge_and_unload()(X), expected)
    torch.testing.assert_close(one.merge_and_unload()(X), expected)


def test_disabling_and_unmerging_give_the_base_layer_back() -> None:
    linear, _ = pair()
    base = linear(X).detach()
    model, layer = moved(linear)
    adapted = model(X).detach()
    assert (adapted - base).abs().max() > 1
    with model.disable_adapter():
        assert torch.equal(model(X), base)
    layer.merge()
    torch.testing.assert_close(model(X), adapted)
    with model.disable_adapter():
        torch.testing.assert_close(model(X), base)
    torch.testing.assert_close(model(X), adapted)
    with pytest.warns(UserWarning, match="Already unmerged"):
        layer.unmerge()


def test_the_movement_is_constant_in_the_backward_pass() -> None:
    """dL/dA = s B^T dL/dW, whatever lambda; dL/dx is through the moved weight."""
    model, layer = moved(pair()[0])
    x = X.clone().requires_grad_()
    model(x).sum().backward()
    A, B = layer.delta_lora_A["default"], layer.delta_lora_B["default"]
    G = torch.ones(7, 4).T @ X
    torch.testing.assert_close(A.grad, 1.5 * B.detach().T @ G)
    torch.testing.assert_close(B.grad, 1.5 * G @ A.detach().T)
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(x.grad, torch.ones(7, 4) @ weight.detach())


def test_a_bf16_layer_keeps_its_factors_in_fp32() -> None:
    model, layer = moved(nn.Linear(6, 4).bfloat16())
    assert model(X.bfloat16()).dtype == torch.bfloat16
    factors = {key: t.dtype for key, t in layer.state_dict().items() if "_A" in key or "_B" in key}
    assert len(factors) == 4 and set(factors.values()) == {torch.float32}
    expected = layer.base_layer.weight.float() + layer.get_delta_weight("default")
    assert torch.equal(model.merge_and_unload()[0].weight, expected.bfloat16())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"DeltaLoraLayer needs a torch.nn.Linear or Conv1D .got Embedding"):
        moved(nn.Embedding(6, 4))
    with pytest.raises(ValueError, match=r"rank must be at least 1 .got 0"):
        DeltaLoraConfig(rank=0)
    with pytest.raises(ValueError, match=r"start_step must be at least 0 .got -1"):
        DeltaLoraConfig(start_step=-1)
    model, layer = moved(nn.Linear(6, 4))
    before = layer.base_layer.weight.detach().clone()
    layer.delta_lora_A["default"].data.fill_(torch.inf)
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_and_unload(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)
