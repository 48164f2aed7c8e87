"""What a stored prediction of this family must be; only then is it scored."""

from __future__ import annotations

from pydantic import Field

from repro.config import Frozen


class Sentence(Frozen):
    """A sentence, with the references that it is compared with."""

    id: str
    prompt: str
    gold: list[str] = Field(min_length=1)
    text: str
