"""The log-probability of a gold answer: a sharper measure of an item than right or wrong.

A test item that gains a little moves it, while an accuracy waits until the item flips. So intervals of
differences are a quarter to a half as wide on commonsense reasoning. Families say what the probability is of;
all store it as here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Nats. Nothing stored is lower: one item must not decide a mean, and JSON has no infinity.
FLOOR = -100.0

# As stored: a thousandth of a nat is a thousandth of the probability.
_DECIMALS = 3


def gold_log_probability(scores: Sequence[float], gold: int) -> float:
    """log softmax(scores)[gold] in nats, as it is stored; `FLOOR` where that is no finite number.

    So it is if a score is NaN, or the gold one minus infinity; another one of minus infinity is impossible.
    """
    largest = max(scores)
    if not math.isfinite(largest) or any(map(math.isnan, scores)):
        return FLOOR
    return stored(scores[gold] - largest - math.log(sum(math.exp(score - largest) for score in scores)))


def stored(log_probability: float) -> float:
    """Rounded, and no less than `FLOOR`, which also stands for what is no finite number."""
    if not math.isfinite(log_probability):
        return FLOOR
    # A sum of rounded terms may come out above 0; adding 0 makes 0.0 of -0.0.
    return round(min(0.0, max(FLOOR, log_probability)), _DECIMALS) + 0.0
