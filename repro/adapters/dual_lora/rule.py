"""The variants of the update: the words for them, which the configuration and every backend share.

A new word goes into a `Literal` here, into `plain.py` and `dense.py`. A backend that does not list it is
not asked.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

MagnitudeActivation = Literal["relu", "abs", "sigmoid", "identity"]
Direction = Literal["sign", "identity", "fixed"]
SignEstimator = Literal["ste", "xnor", "dorefa"]
Clip = Literal["eq7", "eq12", "bnn", "none"]


class Rule(NamedTuple):
    """One variant of the update: the fields of `DualLoraConfig` that decide it."""

    magnitude_activation: MagnitudeActivation = "relu"
    direction: Direction = "sign"
    sign_estimator: SignEstimator = "ste"
    clip: Clip = "eq7"


class Words(NamedTuple):
    """Words for each field of `Rule`: all there are, or those that a backend supports."""

    magnitude_activation: tuple[MagnitudeActivation, ...]
    direction: tuple[Direction, ...]
    sign_estimator: tuple[SignEstimator, ...]
    clip: tuple[Clip, ...]

    def cover(self, rule: Rule) -> bool:
        """Whether every word of the rule is among these."""
        return all(word in words for word, words in zip(rule, self, strict=True))


ALL_WORDS = Words(get_args(MagnitudeActivation), get_args(Direction), get_args(SignEstimator), get_args(Clip))
