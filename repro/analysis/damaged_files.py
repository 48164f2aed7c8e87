"""Which files of a results folder cannot be used: everything else is shown without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from repro.plans.experiment import Experiment
from repro.runs.json_files import DamagedFile
from repro.runs.known_curvature import known_curvature
from repro.runs.known_ranks import known_random_ranks, known_run_ranks
from repro.runs.known_unmerged import known_unmerged
from repro.runs.measurements import read_speed, speed_files
from repro.runs.norms import known_norm
from repro.runs.states import RunState, State
from repro.runs.store import Store

T = TypeVar("T")


def usable(read: Callable[[], T | None]) -> T | None:
    """The result of `read`; None if its file is damaged, as the functions below say."""
    try:
        return read()
    except DamagedFile:
        return None


def damaged_files(states: Iterable[RunState], store: Store) -> list[str]:
    """A line for every damaged file of these runs: results, failures, and what was measured of them."""
    lines: dict[str, None] = {}
    for state in states:
        if state.state is State.DAMAGED:
            lines[f"damaged: {state.detail}"] = None
        elif state.result is not None:
            lines |= _lines(
                partial(store.diagnostics, state.spec),
                partial(known_run_ranks, state.spec, store),
                partial(known_norm, state.spec, store),
                partial(known_unmerged, state.spec, state.result, store),
                partial(known_curvature, state.spec, store.folder.parent),
            )
    return list(lines)


def damaged_speed(results: Path) -> list[str]:
    """A line for every benchmark that is damaged."""
    return list(_lines(*(partial(read_speed, path) for path in speed_files(results))))


def damaged_random_ranks(experiments: Iterable[Experiment], results: Path) -> list[str]:
    """A line for every damaged file with the ranks of random factors that the experiments show."""
    random = {
        (wanted.random_size, wanted.random_rank)
        for experiment in experiments
        if (wanted := experiment.ranks) is not None
    }
    return list(_lines(*(partial(known_random_ranks, *sizes, results) for sizes in sorted(random))))


def _lines(*reads: Callable[[], object]) -> dict[str, None]:
    lines: dict[str, None] = {}
    for read in reads:
        try:
            read()
        except DamagedFile as error:
            lines[f"damaged: {error}"] = None
    return lines
