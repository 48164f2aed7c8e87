"""A prefix acts on every way into the model, as it does in peft's own forward."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from repro.methods import METHODS, MethodError
from repro.models import load_model_spec
from repro.models.loading import load_model, load_tokenizer
from repro.training.causal_lm import Example, collate, negative_log_likelihood
from repro.training.generation import generate
from repro.training.options import Options, option_log_likelihoods

METHOD = METHODS["prefix"](virtual_tokens=3)
MODELS = ["tiny-llama", "tiny-gpt2"]


def prefixed(name: str) -> nn.Module:
    """With weights far from uniform predictions, and a prefix that matters."""
    spec = load_model_spec(name)
    torch.manual_seed(0)
    base = load_model(spec, "causal_lm")
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() == 2:
                parameter *= 5
    model = METHOD.attach(base, spec.targets_for("e2e"), "causal_lm").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def without_hook(model: nn.Module) -> nn.Module:
    """A copy of which peft's wrapper alone knows the prefix."""
    plain = copy.deepcopy(model)
    plain.get_base_model().get_decoder()._forward_pre_hooks.clear()
    return plain


def log_p(model: nn.Module, ids: list[int]) -> Tensor:
    """Log-probabilities of every next token, by the forward of peft's wrapper without our hook."""
    return without_hook(model)(torch.tensor([ids])).logits.log_softmax(-1)[0, -len(ids) :].detach()


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """Of the prefix."""
    (prefix,) = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad(loss, prefix)[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [None, torch.long, torch.bool, torch.float32])
def test_the_model_inside_the_wrapper_has_the_prefix(name: str, dtype: torch.dtype | None) -> None:
    model = prefixed(name)
    ids = torch.tensor([[5, 9, 7, 30, 8], [3, 3, 6, 40, 11]])
    mask = None if dtype is None else torch.tensor([[1] * 5, [0, 0, 1, 1, 1]], dtype=dtype)
    with torch.no_grad():
        expected = without_hook(model)(ids, attention_mask=mask).logits[:, 2:]  # the second row's text
        assert (without_hook(model).get_base_model()(ids).logits[:, 2:] - expected).abs().max() > 1
        for way in (model, model.get_base_model()):
            found = way(ids, attention_mask=mask).logits[:, 2:]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_pefts_forward(name: str) -> None:
    model = prefixed(name)
    examples = [Example((5, 9, 7, 30, 8), 2), Example((6, 40, 11), 1)]
    batch = collate(examples, loss_on="completion", pad_id=3, row_tokens=1)
    expected = -sum(
        log_p(model, list(example.ids))[position - 1, example.ids[position]]
        for example in examples
        for position in range(example.prompt_length, len(example.ids))
    )
    loss = negative_log_likelihood(model, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    reference = without_hook(model)
    steps = reference(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
    theirs = nn.functional.cross_entropy(steps, batch["labels"][:, 1:].flatten(), reduction="sum")
    ours = gradient(loss, model)
    assert ours.abs().max() > 0.1
    shared = collate(examples, loss_on="completion", pad_id=3)
    assert len(shared["input_ids"]) == 1
    torch.testing.assert_close(negative_log_likelihood(model, shared), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, gradient(theirs, reference), rtol=1e-4, atol=1e-5)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        next(p for p in plain.parameters() if p.requires_grad).mul_(-1)
        other = negative_log_likelihood(plain, batch)
    assert abs((other - loss).item()) > 1e-2  # the copy has a hook, and a prefix, of its own


@pytest.mark.parametrize("name", MODELS)
def test_packed_options_are_those_of_pefts_forward(name: str) -> None:
    model = prefixed(name)
    items = [Options((5, 6, 7), ((8, 9), (10,))), Options((20, 21), ((22,), (23, 24, 25)))]
    found = option_log_likelihoods(model, items, pad_id=3)
    for item, values in zip(items, found, strict=True):
        for continuation, value in zip(item.continuations, values, strict=True):
            steps = log_p(model, [*item.context, *continuation])
            start = len(item.context) - 1
            expected = sum(float(steps[start + i, token]) for i, token in enumerate(continuation))
            assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_generation_is_greedy_by_pefts_forward_whatever_the_batch(name: str) -> None:
    model, tokenizer = prefixed(name), load_tokenizer(load_model_spec(name))
    prompts = [[5, 9, 7, 30, 8], [6, 40]]
    alone = [generate(model, tokenizer, [prompt], beams=3, max_new_tokens=6)[0] for prompt in prompts]
    assert generate(model, tokenizer, prompts, beams=3, max_new_tokens=6) == alone
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(log_p(model, ids)[-1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        expected = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        assert generate(model, tokenizer, [prompt], beams=1, max_new_tokens=6) == [expected]


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "base",
    [
        BertForSequenceClassification(BertConfig(vocab_size=40, **SIZES)),
        RobertaForSequenceClassification(RobertaConfig(vocab_size=40, **SIZES)),
    ],
    ids=["bert", "roberta"],
)
def test_a_classifier_has_a_prefix_and_trains_its_head(base: PreTrainedModel, tmp_path: Path) -> None:
    targets = ["query", "value"]
    model = METHOD.attach(copy.deepcopy(base), targets, "seq_cls").eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    head = sum(p.numel() for p in base.classifier.parameters())
    assert sum(p.numel() for p in trained.values()) == head + 2 * 3 * 16 * 2  # 2 p h L
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_()
    ids, mask = torch.tensor([[5, 9, 7, 30, 8], [6, 21, 11, 1, 1]]), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    logits = model(input_ids=ids, attention_mask=mask).logits
    alone = model(input_ids=ids[1:, :3], attention_mask=mask[1:, :3]).logits
    torch.testing.assert_close(logits[1:], alone, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    for name, parameter in trained.items():
        assert parameter.grad is not None and parameter.grad.any(), name

    METHOD.save(model, tmp_path / "prefix")
    loaded = METHOD.load(copy.deepcopy(base), tmp_path / "prefix", targets, "seq_cls").eval()
    assert torch.equal(loaded(input_ids=ids, attention_mask=mask).logits, logits)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == trained.keys()


def test_deberta_is_refused_in_a_line() -> None:
    model = DebertaV2ForSequenceClassification(DebertaV2Config(vocab_size=40, **SIZES))
    with pytest.raises(
        MethodError, match=r"^prefix: deberta-v2 cannot attend to keys and values .* use another"
    ):
        METHOD.attach(model, ["query_proj", "value_proj"], "seq_cls")
