"""What a stored prediction of this family must be, for each protocol; only then is it scored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat

from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.config import Frozen


class Generated(Frozen):
    """A text, under `generate`."""

    task: str
    id: str
    gold: int
    text: str


class Weighed(Frozen):
    """One log-likelihood for each option, under `cloze`; one that overflowed is no number."""

    task: str
    id: str
    gold: int
    log_likelihoods: list[float]
    normalisers: list[Annotated[FiniteFloat, Field(gt=0)]]


def prediction_class(protocol: GenerateSettings | ClozeSettings) -> type[Frozen]:
    return Generated if isinstance(protocol, GenerateSettings) else Weighed
