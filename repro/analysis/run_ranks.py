"""Ranks that take a while to work out, kept in files: of a finished run's update, and of random factors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from repro.analysis.rank import Rank, random_update, ranks
from repro.config import Frozen
from repro.study.bases import BaseModels
from repro.study.spec import RunSpec
from repro.study.starting import trained_model, untrained_model
from repro.study.store import RANKS, Store, read_json, write_json


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


def run_ranks(spec: RunSpec, store: Store, bases: BaseModels) -> RunRanks:
    """The ranks of a finished run. Takes about as long as LAPACK does for the layers' singular values.

    Raises:
        RunWaits: the run is not done.
        ConfigError: its adapter was not kept, or its update has no rank of its own.
    """
    known = known_run_ranks(spec, store)
    if known is None:
        known = RunRanks(
            trained=tuple(ranks(trained_model(spec, store, bases))),
            untrained=tuple(ranks(untrained_model(spec, store, bases))),
        )
        write_json(store.directory(spec) / RANKS, known)
    return known


def known_random_ranks(size: int, r: int, folder: Path) -> RandomRanks | None:
    """What `random_ranks` has found before; None if it was not asked yet."""
    path = folder / f"random-ranks-{size}-{r}.json"
    return read_json(path, RandomRanks, "delete it to work them out again")


def random_ranks(size: int, r: int, folder: Path) -> RandomRanks:
    """Ranks of an untrained update of (size, size) with factors of rank `r`, without any model."""
    known = known_random_ranks(size, r, folder)
    if known is None:
        known = RandomRanks(size=size, factors=r, ranks=tuple(random_update(size, r)))
        write_json(folder / f"random-ranks-{size}-{r}.json", known)
    return known
