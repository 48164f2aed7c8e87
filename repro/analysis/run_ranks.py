"""Computes the ranks of finished runs and of random factors, and stores them, since they take a while."""

from __future__ import annotations

from pathlib import Path

from repro.analysis.rank import random_update, ranks
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.json_files import write_json
from repro.runs.known_ranks import (
    RandomRanks,
    RunRanks,
    known_random_ranks,
    known_run_ranks,
    random_ranks_file,
)
from repro.runs.starting import trained_model, untrained_model
from repro.runs.store import RANKS, Store


def run_ranks(spec: RunSpec, store: Store, bases: BaseModels) -> RunRanks:
    """The ranks of a finished run, stored with its result. LAPACK's singular values take most of the time.

    Raises:
        RunWaits: the run is not done.
        ConfigError: its adapter was not kept, or its method adds no update to the weight.
    """
    known = known_run_ranks(spec, store)
    if known is None:
        known = RunRanks(
            trained=tuple(ranks(trained_model(spec, store, bases))),
            untrained=tuple(ranks(untrained_model(spec, store, bases))),
        )
        write_json(store.directory(spec) / RANKS, known)
    return known


def random_ranks(size: int, r: int, folder: Path) -> RandomRanks:
    """Ranks of an untrained Dual LoRA update of shape (size, size) with r1 = r2 = `r`, stored in `folder`."""
    known = known_random_ranks(size, r, folder)
    if known is None:
        known = RandomRanks(size=size, factors=r, ranks=tuple(random_update(size, r)))
        write_json(random_ranks_file(size, r, folder), known)
    return known
