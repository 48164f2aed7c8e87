"""Batches whose rows use different adapters, against one batch for each adapter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.flora import FloraConfig
from repro.models import load_model_spec
from repro.models.loading import load_model

BASE = load_model(load_model_spec("tiny-llama"), "causal_lm")
TOKENS = torch.arange(4, 44).reshape(5, 8)
NAMES = ["second", "__base__", "first", "second", "first"]
TUNERS: dict[str, tuple[type[PeftConfig], dict[str, Any]]] = {
    "dual_lora": (DualLoraConfig, {"r": 3, "init_weights": False}),
    "flora": (FloraConfig, {"rank": 3}),
    "parallel": (BottleneckConfig, {"bottleneck_size": 8}),
    "serial": (
        BottleneckConfig,
        {"bottleneck_size": 8, "placement": "serial", "target_modules": ["layers.0"]},
    ),
}
tuners = pytest.mark.parametrize("tuner", TUNERS)


def adapted(tuner: str, base: nn.Module = BASE, **changes: Any) -> PeftModel:
    """Two adapters, on different modules, with parameters from N(0, 0.3^2)."""
    kind, fields = TUNERS[tuner]

    def config(target: str) -> PeftConfig:
        return kind(**{"target_modules": ["q", "q_proj", target], **fields, **changes})

    torch.manual_seed(0)
    model: PeftModel = get_peft_model(copy.deepcopy(base), config("v_proj"), adapter_name="first")
    model.add_adapter("second", config("up_proj"))
    for name, parameter in model.named_parameters():
        if ".first" in name or ".second" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def test_each_row_is_that_of_its_adapter() -> None:
    for tuner in TUNERS:
        model = adapted(tuner)
        mixed = model(TOKENS, adapter_names=NAMES).logits
        model.set_adapter("first")
        outputs = {"first": model(TOKENS).logits}
        model.set_adapter("second")
        outputs["second"] = model(TOKENS).logits
        outputs["__base__"] = BASE(TOKENS).logits
        for row, name in enumerate(NAMES):
            torch.testing.assert_close(mixed[row], outputs[name][row], rtol=1e-4, atol=1e-5)
        for one, other in (("first", "second"), ("second", "__base__"), ("first", "__base__")):
            assert (outputs[one] - outputs[other]).abs().max() > 1e-2, tuner
        assert torch.equal(model(TOKENS).logits, outputs["second"])  # nothing stays behind


@torch.no_grad()
def test_beam_search_of_an_encoder_and_decoder() -> None:
    torch.manual_seed(0)
    size = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 48}
    config = T5Config(**size, decoder_start_token_id=0, eos_token_id=None, pad_token_id=0)
    model = adapted("dual_lora", T5ForConditionalGeneration(config), target_modules=["q", "v", "wo"])

    def generate(tokens: Tensor, **arguments: Any) -> Tensor:
        return model.generate(input_ids=tokens, num_beams=2, max_new_tokens=4, **arguments)

    mixed = generate(TOKENS, adapter_names=NAMES)
    with model.disable_adapter():
        outputs = {"__base__": generate(TOKENS)}
    for name in ("first", "second"):
        model.set_adapter(name)
        outputs[name] = generate(TOKENS)
    assert torch.equal(mixed, torch.stack([outputs[name][row] for row, name in enumerate(NAMES)]))
    assert not torch.equal(outputs["first"], outputs["second"])


def test_modules_to_save_follow_the_rows() -> None:
    model = adapted("dual_lora", modules_to_save=["lm_head"])
    with torch.no_grad():
        mixed = model(TOKENS, adapter_names=NAMES).logits
        for name in ("first", "second"):
            model.set_adapter(name)
            rows = [row for row, chosen in enumerate(NAMES) if chosen == name]
            torch.testing.assert_close(mixed[rows], model(TOKENS[rows]).logits, rtol=1e-4, atol=1e-5)


@tuners
def test_what_mixed_batches_cannot_do(tuner: str) -> None:
    model = adapted(tuner)
    with pytest.raises(ValueError, match="adapter_names has 'third', which is none of first, second"):
        model(TOKENS, adapter_names=[*NAMES[:4], "third"])
    with pytest.raises(ValueError, match="adapter_names has 4 names, but a layer's input has 5 rows"):
        model(TOKENS, adapter_names=NAMES[:4])
    with pytest.raises(ValueError, match="adapter_names is not possible in training mode"):
        model.train()(TOKENS, adapter_names=NAMES)
    if TUNERS[tuner][0] is not BottleneckConfig:
        model.eval().merge_adapter()
        with pytest.raises(ValueError, match="adapter_names is not possible over merged adapters"):
            model(TOKENS, adapter_names=NAMES)


@tuners
def test_no_weighted_adapter_is_made(tuner: str) -> None:
    with pytest.raises(NotImplementedError, match="has no add_weighted_adapter: a sum of its adapters"):
        adapted(tuner).add_weighted_adapter(["first", "second"], [0.5, 0.5], "third")
