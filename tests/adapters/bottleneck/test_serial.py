"""The serial bottleneck: its function behind a block, and how it lives beside other adapters."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from repro.adapters.bottleneck import BottleneckConfig, SerialBottleneck
from repro.models import load_model_spec
from repro.models.loading import load_model

TOKENS = torch.arange(4, 36).reshape(2, 16)
BLOCKS = r".*\.(h|layers)\.\d+"


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    without_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **without_dropout)).eval()


BASES: dict[str, PreTrainedModel] = {
    "gpt2": gpt2(),
    "llama": load_model(load_model_spec("tiny-llama"), "causal_lm"),
}
bases = pytest.mark.parametrize("base", BASES)


def config(**changes: object) -> BottleneckConfig:
    settings = {
        "placement": "serial",
        "bottleneck_size": 8,
        "target_modules": BLOCKS,
        "task_type": "CAUSAL_LM",
    }
    return BottleneckConfig(**settings | changes)  # type: ignore[arg-type]


def adapted(base: str, **changes: object) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(BASES[base]), config(**changes)).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_output_is_the_formula_on_what_the_block_returns() -> None:
    torch.manual_seed(0)
    block = nn.Linear(12, 12)
    layer = SerialBottleneck(block, "default", config(scaling=0.5), width=12)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, 5, 12)
    f = {key: value.double() for key, value in layer.state_dict().items()}
    hidden = x.double() @ f["base_layer.weight"].t() + f["base_layer.bias"]
    centred = hidden - hidden.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * f["bottleneck_norm.default.weight"] + f["bottleneck_norm.default.bias"]
    down = normed @ f["bottleneck_down.default.weight"].t() + f["bottleneck_down.default.bias"]
    up = down.clamp(min=0) @ f["bottleneck_up.default.weight"].t() + f["bottleneck_up.default.bias"]
    torch.testing.assert_close(layer(x).double(), hidden + 0.5 * up, rtol=1e-5, atol=1e-6)


@bases
def test_it_acts_on_the_residual_stream_behind_every_block(base: str) -> None:
    """With D zero and U's bias b, each block adds b to the hidden states, and the blocks say nothing else."""
    plain = copy.deepcopy(BASES[base])
    with torch.no_grad():
        for name, parameter in plain.named_parameters():  # blocks that pass on what they are given
            if name.endswith(("c_proj.weight", "o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    model = get_peft_model(copy.deepcopy(plain), config())
    layers = [module for module in model.modules() if isinstance(module, SerialBottleneck)]
    assert len(layers) == 2
    with torch.no_grad():
        for layer in layers:
            layer.bottleneck_down["default"].weight.zero_()
            layer.bottleneck_up["default"].bias.copy_(torch.arange(float(layer.out_features)))
    decoder = plain.base_model
    embeddings = decoder.get_input_embeddings()(TOKENS)
    final = decoder.norm if base == "llama" else decoder.ln_f
    if base == "gpt2":
        embeddings = embeddings + decoder.wpe(torch.arange(TOKENS.shape[1]))
    expected = plain.lm_head(final(embeddings + 2 * torch.arange(float(embeddings.shape[-1]))))
    torch.testing.assert_close(logits(model), expected)


@bases
def test_it_starts_like_gpt2s_layers(base: str) -> None:
    model = adapted(base, bottleneck_size=256)
    for layer in (module for module in model.modules() if isinstance(module, SerialBottleneck)):
        for projection in (layer.bottleneck_down["default"], layer.bottleneck_up["default"]):
            assert projection.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert projection.bias.count_nonzero() == 0
        norm = layer.bottleneck_norm["default"]
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert norm.bias.count_nonzero() == 0


@bases
def test_a_disabled_adapter_leaves_the_base_model(base: str) -> None:
    model = adapted(base)
    assert not torch.equal(logits(model), logits(BASES[base]))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(BASES[base]))
    assert torch.equal(logits(model.unload()), logits(BASES[base]))


@bases
def test_several_adapters_are_kept_apart_and_deleted_one_by_one(base: str) -> None:
    model = adapted(base)
    first = logits(model)
    model.add_adapter("second", config(bottleneck_size=4))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(model)
    assert not torch.equal(second, first)
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert not any("default" in key for key in model.state_dict())


@bases
def test_saved_adapters_come_back(base: str, tmp_path: Path) -> None:
    model = adapted(base)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(copy.deepcopy(BASES[base]), str(tmp_path))
    assert torch.equal(logits(loaded), logits(model))


@bases
def test_gradient_checkpointing_gives_the_same_gradients(base: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted(base).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(TOKENS, labels=TOKENS).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, key
        torch.testing.assert_close(gradients[1][key], gradient)


@bases
def test_generation_with_a_cache_is_that_without(base: str) -> None:
    model = adapted(base)
    prompt = TOKENS[:1, :6]
    runs = [
        model.generate(input_ids=prompt, max_new_tokens=5, do_sample=False, use_cache=cache, pad_token_id=3)
        for cache in (True, False)
    ]
    assert torch.equal(*runs)


@bases
def test_adapters_of_a_half_precision_model_stay_in_full_precision(base: str) -> None:
    model = get_peft_model(copy.deepcopy(BASES[base]).to(torch.bfloat16), config())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    output = model(TOKENS, labels=TOKENS)
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()


def test_merging_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be merged into a weight"):
        adapted("gpt2").merge_and_unload()


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ValueError, match=r"placement must be 'parallel' or 'serial' .got 'behind'."):
        config(placement="behind")


def test_a_block_that_returns_more_than_its_hidden_states_is_refused() -> None:
    layer = SerialBottleneck(nn.LSTM(12, 12), "default", config(), width=12)
    with pytest.raises(TypeError, match=r"needs a block that returns .* .LSTM returned a tuple."):
        layer(torch.zeros(2, 3, 12))
