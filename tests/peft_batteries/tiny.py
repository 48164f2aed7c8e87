"""Tiny random models in the place of those that peft's tests get from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

_AUTO_CLASSES = (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification)

_LLAMA = {
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_BERT = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

# By the word for the architecture in the model's name: its type in transformers, and its settings.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "OPT": ("opt", {**_BERT, "ffn_dim": 37, "word_embed_proj_dim": 32}),
    "GPT2": ("gpt2", _GPT2),
    "GPTJ": ("gptj", {**_GPT2, "rotary_dim": 4}),
    "Llama": ("llama", _LLAMA),
    "qwen2": ("qwen2", _LLAMA),
    "Gemma3": ("gemma3_text", {**_LLAMA, "head_dim": 8}),
    "T5": (
        "t5",
        {"vocab_size": 256, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0},
    ),
    "Bart": (
        "bart",
        {"vocab_size": 256, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 4}
        | {"decoder_ffn_dim": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
        | {"max_position_embeddings": 64},
    ),
    "DebertaV2": ("deberta-v2", _BERT),
    "Deberta": ("deberta", _BERT),
    "Roberta": ("roberta", _BERT),
    "Bert": ("bert", _BERT),
}


def serve_tiny_models(folder: Path) -> None:
    """Let transformers' automatic classes load tiny models, kept in `folder`, by the names on the hub."""
    for auto_class in _AUTO_CLASSES:
        _serve(auto_class, folder)


def _serve(auto_class: Any, folder: Path) -> None:
    original = auto_class.from_pretrained

    def from_pretrained(name: Any, *arguments: Any, **settings: Any) -> Any:
        if "internal-testing/" in str(name):
            name = _saved(auto_class, str(name), folder)
        return original(name, *arguments, **settings)

    auto_class.from_pretrained = from_pretrained


def _saved(auto_class: Any, name: str, folder: Path) -> Path:
    path = folder / auto_class.__name__ / name
    if not path.exists():
        kind, settings = next(found for word, found in _MODELS.items() if word in name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            auto_class.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(path)
    return path
