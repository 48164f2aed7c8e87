"""GPT-2 with query, key and value apart is GPT-2; adapters reach the right thirds the right way round."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from repro.methods import METHODS, Method
from repro.models.gpt2 import split_attention_inputs

TARGETS = ("c_attn.q_proj", "c_attn.v_proj")
TOKENS = torch.arange(2, 26).reshape(2, 12)
WIDTH = 32


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().eval()


@pytest.fixture(scope="module")
def split(plain: nn.Module) -> nn.Module:
    model = copy.deepcopy(plain)
    split_attention_inputs(model)
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def test_the_function_is_the_same(plain: nn.Module, split: nn.Module) -> None:
    torch.testing.assert_close(logits(split), logits(plain), rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in plain.parameters())


def test_generation_with_its_cache_is_the_same(plain: nn.Module, split: nn.Module) -> None:
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "attention_mask": TOKENS > 0}
    assert torch.equal(split.generate(TOKENS, **options), plain.generate(TOKENS, **options))


def weight_update(method: Method, layer: nn.Module) -> Tensor:
    """W - W0 by the papers' formulas, (out, in)."""
    factor = {name: parameter for name, parameter in layer.named_parameters() if "base_layer" not in name}
    if method.name == "dual_lora":
        a, b, c, d = (factor[f"dual_lora_{name}.default"] for name in "ABCD")
        scale = method.alpha / (method.magnitude_rank * method.direction_rank) ** 0.5
        sign = torch.where(d @ c > 0, 1.0, -1.0).double()
        return scale * torch.relu(b @ a) * sign
    a, b = factor["lora_A.default.weight"], factor["lora_B.default.weight"]
    update = method.alpha / method.rank * b @ a
    if method.name != "dora":
        return update
    weight = layer.get_base_layer().weight
    direction = weight + update
    magnitude = factor["lora_magnitude_vector.default.weight"]
    return magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True) - weight


@pytest.mark.parametrize("name", ["lora", "lora_plus", "dora", "dual_lora"])
def test_an_update_reaches_the_columns_of_query_and_value(
    name: str, plain: nn.Module, split: nn.Module
) -> None:
    settings = {"dropout": 0.0, "warmup": "none", "rank": 3, "magnitude_rank": 3, "direction_rank": 2}
    cls = METHODS[name]
    method = cls(**{key: value for key, value in settings.items() if key in cls.model_fields})
    torch.manual_seed(1)
    adapted = method.attach(copy.deepcopy(split), TARGETS, "causal_lm").double()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))

    dense = copy.deepcopy(plain)
    for block, adapted_block in zip(dense.transformer.h, adapted.get_base_model().transformer.h, strict=True):
        parts = adapted_block.attn.c_attn
        with torch.no_grad():
            # Stored (in, 3 out): query, key and value are blocks of columns.
            block.attn.c_attn.weight[:, :WIDTH] += weight_update(method, parts.q_proj).T
            block.attn.c_attn.weight[:, 2 * WIDTH :] += weight_update(method, parts.v_proj).T
        assert isinstance(parts.k_proj, nn.Linear)
    # Dual LoRA keeps its ramp in single precision.
    torch.testing.assert_close(logits(adapted), logits(dense), rtol=1e-5, atol=1e-6)
    assert (logits(adapted) - logits(plain)).abs().max() > 1e-2
