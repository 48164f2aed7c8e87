"""A prefix acts on every way into the model, as it does in peft's own forward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from repro.benchmarks.causal_lm import (
    Example,
    Options,
    collate,
    generate,
    negative_log_likelihood,
    option_log_likelihoods,
)
from repro.methods import METHODS, MethodError
from repro.models import load_model_spec
from repro.models.loading import load_model, load_tokenizer

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


def log_p(model: nn.Module, ids: list[int]) -> Tensor:
    """Log-probabilities of every next token, by peft's forward."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.log_softmax(-1)[0, -len(ids) :]


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_pefts_forward(name: str) -> None:
    model = prefixed(name)
    examples = [Example((5, 9, 7, 30, 8), 2), Example((6, 40, 11), 1)]
    batch = collate(examples, loss_on="completion", pad_id=3)
    expected = -sum(
        log_p(model, list(example.ids))[position - 1, example.ids[position]]
        for example in examples
        for position in range(example.prompt_length, len(example.ids))
    )
    loss = negative_log_likelihood(model, batch["input_ids"], batch["labels"])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    (prefix,) = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert prefix.grad.abs().min() >= 0 and prefix.grad.abs().max() > 1e-4
    plain = copy.deepcopy(model)
    with torch.no_grad():
        next(p for p in plain.parameters() if p.requires_grad).mul_(-1)
        other = negative_log_likelihood(plain, batch["input_ids"], batch["labels"])
    assert abs((other - loss).item()) > 1e-2  # the copy has a hook, and a prefix, of its own


def test_packed_options_are_those_of_pefts_forward() -> None:
    model = prefixed("tiny-llama")
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


def test_deberta_is_refused_in_a_line() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DebertaV2ForSequenceClassification(DebertaV2Config(vocab_size=40, **sizes))
    with pytest.raises(MethodError, match=r"^prefix: deberta-v2 takes no keys and values .* use another"):
        METHOD.attach(model, ["query_proj", "value_proj"], "seq_cls")
