"""Tokenised sets on disk, so that not every run tokenises commonsense_170k, MNLI or 13,262 questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from platformdirs import user_cache_path
from safetensors.numpy import load, save
from transformers import PreTrainedTokenizerBase

from repro.files import write_whole
from repro.training import causal_lm, options
from repro.training.causal_lm import Example
from repro.training.options import Options
from repro.training.truncation import Truncation

Arrays = dict[str, np.ndarray]

TrainingText = tuple[str, str, str]
"""A prompt, its completion, and the prompt's head, which a cut of the context keeps."""

_CHECKSUM_BYTES = hashlib.sha256().digest_size

# A file begins with the sha256 of its key and of the rest, which holds the arrays, by safetensors. So what is
# damaged, cut, or of another key or version is noticed, and never parsed.


def encoded_examples(
    texts: Sequence[TrainingText],
    tokenizer: PreTrainedTokenizerBase,
    *,
    append_eos: bool,
    max_tokens: int,
    truncation: Truncation = "left",
) -> list[Example]:
    """Training texts of a causal language model, by `encode_example` or from the cache.

    Raises:
        ValueError: a completion leaves no token for its prompt.
    """
    settings: dict[str, Any] = {"append_eos": append_eos, "max_tokens": max_tokens, "truncation": truncation}

    def build() -> Arrays:
        examples = [
            causal_lm.encode_example(tokenizer, prompt, completion, head=head, **settings)
            for prompt, completion, head in texts
        ]
        return joined([example.ids for example in examples]) | {
            "prompts": np.array([example.prompt_length for example in examples], dtype=np.int64),
            "dropped": np.array([example.dropped for example in examples], dtype=np.int64),
        }

    # The texts themselves, so that a template or a protocol that is edited counts as well.
    content = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    stored = cached_arrays([content, *tokenizer_key(tokenizer), json.dumps(settings)], build)
    prompts, dropped = stored["prompts"].tolist(), stored["dropped"].tolist()
    return list(map(Example, parted(stored["ids"], stored["ends"]), prompts, dropped))


def encoded_options(
    texts: Sequence[tuple[str, Sequence[str]]], tokenizer: PreTrainedTokenizerBase
) -> list[Options]:
    """Questions, each with its continuations, by `encode_options` or from the cache."""

    def build() -> Arrays:
        every = (options.encode_options(tokenizer, *text) for text in texts)
        return joined([ids for question in every for ids in (question.context, *question.continuations)])

    content = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    stored = cached_arrays(["options", content, *tokenizer_key(tokenizer)], build)
    ids = iter(parted(stored["ids"], stored["ends"]))
    return [Options(next(ids), tuple(islice(ids, len(continuations)))) for _, continuations in texts]


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a tokenizer's ids depend on, for the key of a cache."""
    # First, since it takes back the truncation of an earlier call, which is part of the tokenizer's text.
    empty = tokenizer("").input_ids
    return [
        tokenizer.backend_tokenizer.to_str(),
        f"{transformers.__version__} {tokenizers.__version__} {empty} {tokenizer.eos_token_id}",
    ]


def joined(rows: Sequence[Sequence[int]]) -> Arrays:
    """Rows of token ids as `ids`, one after the other, and `ends`, where each ends."""
    return {
        "ids": np.fromiter(chain.from_iterable(rows), dtype=np.int32),
        "ends": np.cumsum([len(row) for row in rows], dtype=np.int64),
    }


def parted(values: np.ndarray, ends: np.ndarray) -> list[tuple[int, ...]]:
    """The rows that were `joined`."""
    flat, last = values.tolist(), ends.tolist()
    return [tuple(flat[start:end]) for start, end in zip([0, *last], last, strict=False)]


def cached_arrays(key: Sequence[str], build: Callable[[], Arrays]) -> Arrays:
    """The arrays that `build` returns, from the user's cache if it has them under the same `key`.

    The key must contain everything that they depend on: texts, tokenizer, and encoding settings.
    """
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = user_cache_path("dual-lora-repro") / "tokens" / f"{name[:32]}.tokens"
    stored = _read(path, name)
    if stored is not None:
        return stored
    arrays = build()
    with suppress(OSError):  # on a full or read-only disk the next run tokenises again
        content = save(arrays)
        write_whole(path, _checksum(name, content) + content)
    return arrays


def _read(path: Path, name: str) -> Arrays | None:
    """The stored arrays; None if there are none, or the file is not as it was written under this name."""
    try:
        if not path.is_file():  # reading a pipe would wait
            return None
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    checksum, packed = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    return load(bytes(packed)) if checksum == _checksum(name, packed) else None


def _checksum(name: str, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(content)
    return digest.digest()
