"""Which values the keys of an architecture may have: a description is refused before a model is built."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

_BLOCKS = ("num_hidden_layers", "n_layer")
_SIZES = (
    *(
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ),
    *(
        "max_position_embeddings",
        "position_buckets",
        "conv_kernel_size",
        "n_positions",
        "n_embd",
        "n_head",
        "n_inner",
    ),
)
_SWITCHES = (
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache"),
    *("relative_attention", "share_att_key", "position_biased_input"),
)
_NAMES = ("model_type", "hidden_act", "activation_function", "conv_act", "norm_rel_ebd")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OTHERS = (
    "type_vocab_size",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rope_parameters",
    "rope_theta",
)
# Far above any model, so that a slip is refused before a list of so many blocks is made.
_MOST_BLOCKS, _LARGEST_SIZE = 1000, 10**8


def check_values(architecture: Mapping[str, Any]) -> None:
    """Refuse values that no model has.

    Raises:
        ValueError: one line for each.
    """
    lines = [f"architecture.{line}" for line in _problems(architecture)]
    if lines:
        raise ValueError("\n".join(lines))


def _problems(a: Mapping[str, Any]) -> Iterator[str]:
    wrong: set[str] = set()
    known = (*_BLOCKS, *_SIZES, *_SWITCHES, *_NAMES, *_TOKENS, *_OTHERS)
    for key in sorted(set(a) - set(known)):  # transformers has many more keys, and takes any
        if close := difflib.get_close_matches(key, known, n=1, cutoff=0.9):
            yield f"{key}: unknown key; did you mean {close[0]!r}?"
    for key, value in a.items():
        if (allowed := _allowed(key, value, a)) is not None:
            wrong.add(key)
            yield f"{key}: impossible (got {value!r:.80}; allowed: {allowed})"
    for whole, parts in [
        ("hidden_size", "num_attention_heads"),
        ("n_embd", "n_head"),
        ("num_attention_heads", "num_key_value_heads"),
    ]:
        if whole in a and parts in a and not {whole, parts} & wrong and a[whole] % a[parts]:
            yield f"{parts}: {a[parts]} do not divide {whole}, {a[whole]}"
    if a.get("model_type") == "llama" and not wrong and {"hidden_size", "num_attention_heads"} <= set(a):
        head = a["hidden_size"] // a["num_attention_heads"]
        if head % 2 and a["hidden_size"] % a["num_attention_heads"] == 0:
            yield f"num_attention_heads: heads of odd size, {head}, which cannot be rotated in pairs"
        if a.get("head_dim", head) != head:
            yield f"head_dim: {a['head_dim']} is not hidden_size / num_attention_heads, {head}"


def _allowed(key: str, value: Any, a: Mapping[str, Any]) -> str | None:
    """What a key may be, if its value is not that."""
    if key in _BLOCKS and not _whole(value, 1, _MOST_BLOCKS):
        return f"1 to {_MOST_BLOCKS}"
    if key in _SIZES and not _whole(value, 1, _LARGEST_SIZE):
        return f"a whole number from 1 to {_LARGEST_SIZE:,}"
    if key == "type_vocab_size" and not _whole(value, 0, _LARGEST_SIZE):
        return f"a whole number from 0 to {_LARGEST_SIZE:,}"
    if key in _SWITCHES and not isinstance(value, bool):
        return "true, false"
    if key in _NAMES and not isinstance(value, str):
        return "a text"
    if key == "rope_parameters" and not isinstance(value, Mapping):
        return "a mapping"
    if key in _TOKENS:
        size = a.get("vocab_size")
        last = size - 1 if isinstance(size, int) else _LARGEST_SIZE
        if value is not None and not _whole(value, 0, last):
            return f"null, or a token from 0 to {last}"
    if key.endswith(("_eps", "_epsilon", "initializer_range")) and not _number(value, 0, 1):
        return "a number from 0 to 1"
    if key.endswith(("_prob", "_dropout", "_pdrop")) and not (_number(value, 0, 1) and value < 1):
        return "a number from 0 to below 1"
    return None if _finite(value) else "finite numbers"


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
