"""NIST (Doddington, 2002), by the definition of mteval-13a.

nltk's NIST differs: it weights n-grams by other counts (7.37 against 8.52 on one official case).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from repro.benchmarks.jackknife import Array, jackknife

_ORDERS = 5
# The brevity penalty is 0.5 for a text of two thirds of its reference's length.
_BETA = -math.log(0.5) / math.log(1.5) ** 2

_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def nist(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Array]:
    """NIST of a set of sentences, and the sentences' pseudo-values (items,).

    The n-gram weights always come from all references; the pseudo-values ignore how leaving out an item would
    change them.
    """
    said = [tokens(text) for text in hypotheses]
    wanted = [[tokens(text) for text in texts] for texts in references]
    weights = information(wanted)
    rows = []
    for hypothesis, texts in zip(said, wanted, strict=True):
        allowed: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            allowed |= _ngrams(text)
        gained = [0.0] * _ORDERS
        for ngram, count in _ngrams(hypothesis).items():
            gained[len(ngram) - 1] += weights.get(ngram, 0.0) * min(count, allowed[ngram])
        totals = [max(0, len(hypothesis) - order) for order in range(_ORDERS)]
        mean_length = sum(map(len, texts)) / len(texts)
        rows.append([*gained, *totals, len(hypothesis), mean_length])
    return jackknife(np.array(rows, dtype=np.float64), _from_sums)


def information(references: Sequence[Sequence[Sequence[str]]]) -> dict[tuple[str, ...], float]:
    """Weight of each n-gram: log2(count of its first n - 1 words / its own count), over all references."""
    counts: Counter[tuple[str, ...]] = Counter()
    words = 0
    for text in (text for texts in references for text in texts):
        counts.update(_ngrams(text))
        words += len(text)
    return {
        ngram: math.log2((counts[ngram[:-1]] if len(ngram) > 1 else words) / count)
        for ngram, count in counts.items()
    }


def tokens(text: str) -> list[str]:
    """mteval-13a's tokens, in lower case: punctuation is split off, except inside a number."""
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text.lower()} "
    # ASCII without letters, digits, full stop, comma, hyphen, apostrophe.
    text = re.sub(r"([{-~\[-` -&(-+:-@/])", r" \1 ", text)
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    text = re.sub(r"([0-9])(-)", r"\1 \2 ", text)
    return text.split()


def _ngrams(text: Sequence[str]) -> Counter[tuple[str, ...]]:
    """All n-grams up to order 5."""
    return Counter(
        tuple(text[start : start + order])
        for order in range(1, _ORDERS + 1)
        for start in range(len(text) - order + 1)
    )


def _from_sums(sums: Array) -> Array:
    """NIST from summed information and totals of each order, and lengths: (..., 12) to (...)."""
    gained, totals = sums[..., :_ORDERS], sums[..., _ORDERS : 2 * _ORDERS]
    ratio = np.clip(sums[..., -2] / np.maximum(sums[..., -1], 1e-12), 1e-12, 1.0)
    penalty = np.exp(-_BETA * np.log(ratio) ** 2)
    return (gained / np.maximum(totals, 1.0)).sum(axis=-1) * penalty
