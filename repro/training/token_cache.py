"""Tokenised training sets on disk, so that not every run tokenises the 170,420 texts of the paper's mix."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from repro.files import write_whole
from repro.training.causal_lm import Example


def cached_examples(key: Sequence[str], build: Callable[[], list[Example]]) -> list[Example]:
    """The examples that `build` returns, from the user's cache if it has them under the same `key`.

    The key must contain everything that the ids depend on: texts, tokenizer, and encoding settings.
    """
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    path = user_cache_path("dual-lora-repro") / "tokens" / f"{digest}.npz"
    try:
        return _load(path)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # absent, or cut off by a full disk
        examples = build()
    with suppress(OSError):  # on a full or read-only disk the next run tokenises again
        _save(path, examples)
    return examples


def _load(path: Path) -> list[Example]:
    with np.load(path) as stored:
        ids, ends, prompts = stored["ids"].tolist(), stored["ends"].tolist(), stored["prompts"].tolist()
    starts = [0, *ends][: len(ends)]
    return [
        Example(tuple(ids[start:end]), prompt)
        for start, end, prompt in zip(starts, ends, prompts, strict=True)
    ]


def _save(path: Path, examples: list[Example]) -> None:
    content = io.BytesIO()
    np.savez(
        content,
        ids=np.array([token for example in examples for token in example.ids], dtype=np.int32),
        ends=np.cumsum([len(example.ids) for example in examples]),
        prompts=np.array([example.prompt_length for example in examples]),
    )
    write_whole(path, content.getvalue())
