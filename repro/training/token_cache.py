"""Tokenised training sets on disk, so that not every run tokenises the 170,420 texts of the paper's mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import tokenizers
import transformers
from platformdirs import user_cache_path
from safetensors.numpy import load, save
from transformers import PreTrainedTokenizerBase

from repro.files import write_whole
from repro.training.causal_lm import Example

_CHECKSUM_BYTES = hashlib.sha256().digest_size

# A file begins with the sha256 of its key and of the rest, which holds the arrays, by safetensors. So what is
# damaged, cut, or of another key or version is noticed, and never parsed.


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a tokenizer's ids depend on, for the key of a cache."""
    return [
        tokenizer.backend_tokenizer.to_str(),
        f"{transformers.__version__} {tokenizers.__version__} {tokenizer('').input_ids}",
    ]


def cached_examples(key: Sequence[str], build: Callable[[], list[Example]]) -> list[Example]:
    """The examples that `build` returns, from the user's cache if it has them under the same `key`.

    The key must contain everything that the ids depend on: texts, tokenizer, and encoding settings.
    """
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = user_cache_path("dual-lora-repro") / "tokens" / f"{name[:32]}.tokens"
    stored = _read(path, name)
    if stored is not None:
        return stored
    examples = build()
    with suppress(OSError):  # on a full or read-only disk the next run tokenises again
        content = _packed(examples)
        write_whole(path, _checksum(name, content) + content)
    return examples


def _read(path: Path, name: str) -> list[Example] | None:
    """The stored examples; None if there are none, or the file is not as it was written under this name."""
    try:
        if not path.is_file():  # reading a pipe would wait
            return None
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    checksum, packed = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    return _unpacked(packed) if checksum == _checksum(name, packed) else None


def _checksum(name: str, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(content)
    return digest.digest()


def _packed(examples: list[Example]) -> bytes:
    return save(
        {
            "ids": np.array([token for example in examples for token in example.ids], dtype=np.int32),
            "ends": np.cumsum([len(example.ids) for example in examples], dtype=np.int64),
            "prompts": np.array([example.prompt_length for example in examples], dtype=np.int64),
            "dropped": np.array([example.dropped for example in examples], dtype=np.int64),
        }
    )


def _unpacked(content: memoryview) -> list[Example]:
    stored = load(bytes(content))
    ids, ends, prompts, dropped = (stored[part].tolist() for part in ("ids", "ends", "prompts", "dropped"))
    starts = [0, *ends][: len(ends)]
    return [
        Example(tuple(ids[start:end]), prompt, cut)
        for start, end, prompt, cut in zip(starts, ends, prompts, dropped, strict=True)
    ]
