"""Saved adapters in the place of loaded ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter as of_peft
from torch import Tensor

from repro.adapters.dual_lora import hotswap_adapter

Make = Callable[..., PeftModel]


@pytest.mark.parametrize("fields", [{}, {"direction": "fixed"}, {"warmup": "subtract_initial"}], ids=str)
def test_the_model_is_then_that_of_the_saved_adapter(
    fields: dict[str, Any], dual_llama: Make, tokens: Tensor, tmp_path: Path
) -> None:
    models = [dual_llama(seed=seed, **fields).eval() for seed in (1, 2)]
    for seed, model in enumerate(models):
        generator = torch.Generator().manual_seed(seed)
        for name, factor in model.named_parameters():
            if "dual_lora" in name:
                factor.data.add_(0.2 * torch.randn(factor.shape, generator=generator))
    model, other = models
    other.save_pretrained(tmp_path)
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    hotswap_adapter(model, str(tmp_path), "default", torch_device="cpu")
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, other(tokens).logits)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == before


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"alpha": 5.0}, r"alpha is 5\.0 instead of 32\.0"),
        ({"clip": "bnn"}, "clip is 'bnn' instead of 'eq7'"),
        ({"magnitude_rank": 2}, r"dual_lora_A has shape .2, 24. instead of .3, 24."),
        ({"target_modules": ["q_proj"]}, r"dual_lora_A has shape None instead of .3, 24."),
    ],
)
def test_adapters_that_differ_are_refused(
    fields: dict[str, Any], reason: str, dual_llama: Make, tmp_path: Path
) -> None:
    dual_llama(seed=1, **fields).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"cannot take the place of adapter 'default': .*{reason}"):
        hotswap_adapter(dual_llama(), str(tmp_path), "default")


def test_merged_adapters_are_refused_and_peft_knows_lora_alone(dual_llama: Make, tmp_path: Path) -> None:
    model = dual_llama()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only supports LORA but DUAL_LORA"):
        of_peft(model, str(tmp_path), "default")
    model.merge_adapter()
    with pytest.raises(ValueError, match="the adapter is merged"):
        hotswap_adapter(model, str(tmp_path), "default")
