"""What the processes of a run and their launchers tell each other, in a key-value store that node 0 hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from torch import distributed as dist


class Reports:
    """How far the run is: from process 0 to the launcher of node 0, in order."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._next = 0

    def put(self, report: tuple[str, int, int]) -> None:
        """Send a phase, how much of it is done, and out of how much."""
        self._store.set(f"report {self._next}", json.dumps(report))
        self._next += 1

    def arrived(self) -> Iterator[tuple[str, int, int]]:
        """The reports since the last call."""
        while self._store.check([key := f"report {self._next}"]):
            phase, done, total = json.loads(self._store.get(key))
            self._store.delete_key(key)
            self._next += 1
            yield phase, done, total


class Flag:
    """Once set by anyone, it is set for everyone."""

    def __init__(self, store: dist.Store, name: str) -> None:
        self._store = store
        self._name = name

    def set(self) -> None:
        self._store.set(self._name, "")

    def is_set(self) -> bool:
        return self._store.check([self._name])


@dataclass(frozen=True)
class Link:
    """What connects a process to the launchers.

    Attributes:
        reports: takes how far the run is.
        told: set when the processes should stop and keep what they have done.
    """

    reports: Reports
    told: Flag
