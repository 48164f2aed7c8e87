"""Ranks as they are kept in files: read without what works them out, and so without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from repro.config import Frozen
from repro.plans.spec import RunSpec
from repro.runs.store import RANKS, Store, read_json


class Rank(Frozen):
    """The ranks of one matrix.

    Attributes:
        layer: where it belongs, by the layer's path in the model.
        part: `update` for dW; of Dual LoRA also `magnitude` and `direction`, whose product it is.
        shape: (d, k).
        numerical: singular values above max(d, k) * eps * s_1.
        stable, effective: see `repro.analysis.rank`.
        spectrum: s_i / s_1 at evenly spaced i, the first and the last among them.
    """

    layer: str
    part: str
    shape: tuple[int, int]
    numerical: int
    stable: float
    effective: float
    spectrum: tuple[float, ...]

    @property
    def module(self) -> str:
        """The kind of layer, the last word of its path."""
        return self.layer.rpartition(".")[2]

    @property
    def ceiling(self) -> int:
        """The largest rank that the shape allows."""
        return min(self.shape)


class RunRanks(Frozen):
    """Ranks of every adapted layer, as the run left it and as its seed had drawn it before the first step."""

    version: Literal[1] = 1
    trained: tuple[Rank, ...]
    untrained: tuple[Rank, ...]


class RandomRanks(Frozen):
    """Ranks of a square Dual LoRA update of Gaussian factors, r1 = r2."""

    version: Literal[1] = 1
    size: int
    factors: int
    ranks: tuple[Rank, ...]


def known_run_ranks(spec: RunSpec, store: Store) -> RunRanks | None:
    """What `run_ranks` has found before, beside the run's result; None if it was not asked yet."""
    return read_json(store.directory(spec) / RANKS, RunRanks, "delete it to work them out again")


def known_random_ranks(size: int, r: int, folder: Path) -> RandomRanks | None:
    """What `random_ranks` has found before; None if it was not asked yet."""
    path = folder / f"random-ranks-{size}-{r}.json"
    return read_json(path, RandomRanks, "delete it to work them out again")
