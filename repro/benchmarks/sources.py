"""Where a family's records come from, such as a local folder or the hub. No source falls back on another."""

from __future__ import annotations

from typing import Generic, ParamSpec, Protocol, TypeVar

from repro.config import one_of
from repro.training.data import DataError

P = ParamSpec("P")
R = TypeVar("R")


class Source(Protocol[P, R]):
    """A place that records are read from; `P` says what is asked for, a split or a task and a split."""

    @property
    def note(self) -> str:
        """What a table says about these data."""

    def load(self, *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """All records of a split, in a fixed order; raises `DataError` if they cannot be read."""


class Sources(Generic[P, R]):
    """The sources of one family, by the names that its setting `source` allows."""

    def __init__(self, family: str, **sources: type[Source[P, R]]) -> None:
        self._family = family
        self._sources = sources

    def get(self, name: str) -> Source[P, R]:
        """The source called `name`; raises `DataError` for any other name."""
        if name not in self._sources:
            raise DataError(one_of(f"{self._family} source", name, self._sources))
        return self._sources[name]()
