"""Generation, against full forward passes of one prompt at a time."""

from __future__ import annotations

import copy
import string

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA
from repro.models import ModelSpec
from repro.training.generation import generate
from tests.tiny_models import byte_ids


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    texts = ["a", "Good now, sit down, and tell me, he that knows", "to be or", "not"]
    return [tokenizer(text).input_ids for text in texts]


@pytest.fixture(scope="module")
def letters(base: nn.Module, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The base model, made to answer in ASCII letters, so that different answers are different texts."""
    model = copy.deepcopy(base)
    others = torch.ones(model.lm_head.out_features, dtype=torch.bool)
    others[byte_ids(tokenizer, string.ascii_letters)] = False
    model.lm_head.weight[others] = 0
    model.lm_head.weight[~others] *= 3
    return model


def test_greedy_generation_takes_the_likeliest_token_each_time(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    """Each prompt alone, a full forward pass a token: no cache, no padding, the model's own positions."""
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(letters(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(ids[len(prompt) :]))
    assert generate(letters, tokenizer, prompts, beams=1, max_new_tokens=6) == expected
    assert len(set(expected)) == 4
    assert all(len(text) == 6 for text in expected)


def test_generation_uses_the_adapters(
    letters: nn.Module, tiny: ModelSpec, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    plain = generate(letters, tokenizer, prompts, beams=1, max_new_tokens=6)
    torch.manual_seed(0)
    method = DualLoRA(magnitude_rank=4, init_std=0.3)
    model = method.attach(copy.deepcopy(letters), tiny.targets_for("commonsense"), "causal_lm").eval()
    adapted = generate(model, tokenizer, prompts, beams=1, max_new_tokens=6)
    assert adapted != plain
    assert adapted == generate(method.merge(model), tokenizer, prompts, beams=1, max_new_tokens=6)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_generates_what_each_prompt_does_alone(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], beams: int
) -> None:
    texts = generate(letters, tokenizer, prompts, beams=beams, max_new_tokens=8)
    assert texts == [generate(letters, tokenizer, [p], beams=beams, max_new_tokens=8)[0] for p in prompts]
    assert generate(letters, tokenizer, prompts[::-1], beams=beams, max_new_tokens=8) == texts[::-1]


def test_beams_are_honoured(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    """Against a search written out for two tokens: the best pair that starts with one of the k likeliest."""

    def best_pair(prompt: list[int], beams: int) -> str:
        with torch.no_grad():
            first = letters(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            starts = first.topk(beams).indices.tolist()
            second = (
                letters(input_ids=torch.tensor([[*prompt, s] for s in starts])).logits[:, -1].log_softmax(-1)
            )
        total = first[starts][:, None] + second
        row, token = divmod(int(total.argmax()), total.shape[1])
        return tokenizer.decode([starts[row], token])

    many = [[*prompts[3], token] for token in byte_ids(tokenizer, "abcdefghij")]
    found = {beams: generate(letters, tokenizer, many, beams=beams, max_new_tokens=2) for beams in (1, 3)}
    for beams, texts in found.items():
        assert texts == [best_pair(prompt, beams) for prompt in many]
    assert found[1] != found[3]


def test_generation_stops_at_the_end_token_row_by_row(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    texts = generate(letters, tokenizer, prompts, beams=1, max_new_tokens=8)
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = texts[0][3]  # the letter that the first prompt's answer has there
    expected = [
        "".join(text.partition(ending.eos_token)[:2]) for text in texts
    ]  # a letter is shown, `</s>` would not be
    assert generate(letters, ending, prompts, beams=1, max_new_tokens=8) == expected
    assert {len(text) for text in expected} >= {4, 8}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
        {"repetition_penalty": 50.0},
        {"no_repeat_ngram_size": 1},
        {"length_penalty": -9.0, "early_stopping": True},
        {"num_beams": 2, "min_new_tokens": 7, "max_length": 3},
        {"suppress_tokens": [81, 82, 83, 84, 85, 86, 87]},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_the_checkpoints_own_generation_settings_change_nothing(
    letters: nn.Module,
    tiny: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    setting: dict[str, float],
    wrapped: bool,
) -> None:
    model = copy.deepcopy(letters)
    if wrapped:
        model = LoRA(rank=2).attach(model, tiny.targets_for("commonsense"), "causal_lm").eval()
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = "e"
    expected = generate(model, ending, prompts, beams=4, max_new_tokens=8)
    for holder in (model, model.get_base_model() if wrapped else model):
        for name, value in setting.items():
            setattr(holder.generation_config, name, value)
    assert generate(model, ending, prompts, beams=4, max_new_tokens=8) == expected
