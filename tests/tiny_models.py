"""Tiny models whose predictions are decided enough for a mistake to show."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.methods import Method
from repro.methods.lora import LoRA
from repro.models import ModelSpec, load_model_spec
from repro.models.loading import load_model, load_tokenizer
from repro.training.causal_lm import Example, encode_example
from repro.training.context import RunContext
from repro.training.spec import TrainingSpec

# At LLaMA's initial scale attention and predictions are all but uniform; at ten times that, neither is.
_SHARPER = 10

_TEXTS = [
    "to be",
    " or not",
    "that is the question",
    "whether",
    "'tis nobler in the mind",
    "a",
    "sea of troubles",
]


def run_context(
    tokenizer: PreTrainedTokenizerBase | None,
    training: TrainingSpec,
    method: Method | None = None,
    *,
    seed: int = 0,
    micro_batch_size: int = 2,
    evaluation_tokens: int = 300,
    regular: bool = False,
) -> RunContext:
    """A run of LoRA unless `method` is given, and without a tokenizer where nothing is tokenised."""
    return RunContext(
        tokenizer, method or LoRA(), training, seed, micro_batch_size, evaluation_tokens, regular
    )


@pytest.fixture(scope="session")
def tiny() -> ModelSpec:
    """A LLaMA of two layers with random weights; its tokens are bytes."""
    return load_model_spec("tiny-llama")


@pytest.fixture(scope="session")
def tokenizer(tiny: ModelSpec) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny)


@pytest.fixture(scope="session")
def base(tiny: ModelSpec) -> nn.Module:
    """The tiny model in float64, weights scaled up. Shared by all tests, so change a copy only."""
    model = load_model(tiny, "causal_lm", torch.float64)
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        # transformers starts the padding token at zero, and attention would hardly show that it saw any.
        embeddings[3] = embeddings[4:].std() * torch.sign(embeddings[4])
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= _SHARPER
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def attach(tiny: ModelSpec, base: nn.Module) -> Callable[..., nn.Module]:
    """(method, seed) -> a copy of the base model with the method's adapters, none of them zero."""

    def attached(method: Method, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model = method.attach(copy.deepcopy(base), tiny.targets_for("commonsense"), "causal_lm")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and not parameter.any():
                    parameter.normal_(std=0.1)
        return model.eval()

    return attached


@pytest.fixture(scope="session")
def encode(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[tuple[str, str]]], list[Example]]:
    """(prompt, completion) pairs -> examples, each with an end token."""

    def encoded(texts: Sequence[tuple[str, str]]) -> list[Example]:
        return [
            encode_example(tokenizer, prompt, completion, append_eos=True, max_tokens=64)
            for prompt, completion in texts
        ]

    return encoded


@pytest.fixture(scope="session")
def examples(encode: Callable[[Sequence[tuple[str, str]]], list[Example]]) -> list[Example]:
    """49 short examples of many lengths; no two are equal."""
    return encode([(prompt, completion) for prompt in _TEXTS for completion in _TEXTS])


def byte_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(character) for character in text]
