"""BLEU (Papineni et al., 2002) with mteval-13a's tokens, lower case, as sacrebleu counts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repro.benchmarks.jackknife import Array, jackknife

_ORDERS = 4


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Array]:
    """BLEU of a set of sentences, between 0 and 1, and the sentences' pseudo-values (items,)."""
    from sacrebleu.metrics.bleu import BLEU

    counter = BLEU(lowercase=True, tokenize="13a", smooth_method="none", effective_order=True)
    counted = [
        counter.sentence_score(said, list(wanted))
        for said, wanted in zip(hypotheses, references, strict=True)
    ]
    return jackknife(
        np.array([[*item.counts, *item.totals, item.sys_len, item.ref_len] for item in counted], np.float64),
        _from_sums,
    )


def _from_sums(sums: Array) -> Array:
    """BLEU from summed matches and totals of each order, and lengths: (..., 10) to (...)."""
    matches, totals = sums[..., :_ORDERS], sums[..., _ORDERS : 2 * _ORDERS]
    said, wanted = sums[..., -2], sums[..., -1]
    some = (matches > 0).all(axis=-1)  # without a match of every order the geometric mean is zero
    logs = np.log(np.where(matches > 0, matches, 1.0)) - np.log(np.maximum(totals, 1.0))
    brevity = np.minimum(0.0, 1.0 - wanted / np.maximum(said, 1.0))
    return np.where(some, np.exp(logs.mean(axis=-1) + brevity), 0.0)
