"""The protocols as settings in a run's spec: which one, in which version, with which choices left open."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repro.benchmarks.commonsense.prompts import TEMPLATES
from repro.benchmarks.commonsense.protocols import Cloze, Generate
from repro.config import Frozen


class GenerateSettings(Frozen):
    """The paper's protocol, by beam search without sampling; see `protocols.Generate`."""

    name: Literal["generate"] = "generate"
    version: Literal[1] = Generate.version  # type: ignore[assignment]
    template: Literal["llm-adapters", "hira"] = "llm-adapters"
    reading: Literal["first", "strict"] = "first"
    beams: int = Field(default=4, ge=1)
    max_new_tokens: int = Field(default=32, ge=1)

    def protocol(self) -> Generate:
        return Generate(template=TEMPLATES[self.template], reading=self.reading)


class ClozeSettings(Frozen):
    """Likelihoods of the options; see `protocols.Cloze`."""

    name: Literal["cloze"] = "cloze"
    version: Literal[1] = Cloze.version  # type: ignore[assignment]

    def protocol(self) -> Cloze:
        return Cloze()
