"""Rank results and their files, readable without torch; `repro.analysis.run_ranks` computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from repro.config import Frozen
from repro.plans.spec import RunSpec
from repro.runs.json_files import DamagedFile, read_json
from repro.runs.store import RANKS, Store

_REMEDY = "delete it to work them out again"


class Rank(Frozen):
    """The ranks of one matrix.

    Attributes:
        layer: the layer's path in the model.
        part: `update` for ΔW; for Dual LoRA also `magnitude` and `direction`, whose product ΔW is.
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
    """Ranks of every adapted layer: trained, and untrained as initialised from the run's seed."""

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
    """Stored ranks of a run, from the folder of its result; None if they are not computed yet."""
    return read_json(store.directory(spec) / RANKS, RunRanks, _REMEDY)


def random_ranks_file(size: int, r: int, folder: Path) -> Path:
    """Where the ranks of a random update are stored in the results folder `folder`."""
    return folder / f"random-ranks-{size}-{r}.json"


def known_random_ranks(size: int, r: int, folder: Path) -> RandomRanks | None:
    """Stored ranks of a random update; None if they are not computed yet.

    Raises:
        DamagedFile: there is a file, but it cannot be understood, or is of another update.
    """
    path = random_ranks_file(size, r, folder)
    found = read_json(path, RandomRanks, _REMEDY)
    if found is not None and (found.size, found.factors) != (size, r):
        raise DamagedFile(f"{path}: of size {found.size} with {found.factors} factors; {_REMEDY}")
    return found
