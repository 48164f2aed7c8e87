"""Reference results: finished runs that are committed, without their predictions and adapters.

`repro.paths.REFERENCE` is a results folder like any other, with one difference: a table shows the seeds and
the data of its committed runs, not those of the machine that renders it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from repro.config import ConfigError
from repro.files import write_whole
from repro.plans.experiment import Experiment, list_experiments, load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import Profile
from repro.plans.spec import RunSpec
from repro.reading import read_regular
from repro.runs.json_files import DamagedFile, write_json
from repro.runs.known_curvature import Curvature, curvature_file, known_curvature
from repro.runs.known_ranks import RandomRanks, known_random_ranks, known_run_ranks, random_ranks_file
from repro.runs.known_unmerged import known_unmerged
from repro.runs.measurements import read_speed, speed_file, speed_files
from repro.runs.norms import known_norm
from repro.runs.result import Environment, Result
from repro.runs.states import RunState, State, run_state, run_states
from repro.runs.store import DIAGNOSTICS, NORM, RANKS, RESULT, UNMERGED, Store

# Of the files that are copied as they are: what reads them, and raises DamagedFile.
_READERS: Mapping[str, Callable[[Store, RunSpec], object]] = {
    RESULT: Store.result,
    DIAGNOSTICS: Store.diagnostics,
    RANKS: lambda store, spec: known_run_ranks(spec, store),
}


class Stand(NamedTuple):
    """An experiment under a profile, with the states of its runs in the store."""

    plan: Plan
    states: Sequence[RunState]

    @property
    def results(self) -> list[Result]:
        return [state.result for state in self.states if state.result is not None]

    @property
    def presentable(self) -> bool:
        """Whether at least half of the rows have at least half of their runs; fewer may be those that other
        experiments share.
        """
        finished = {state.spec.hash for state in self.states if state.result is not None}
        rows = [row.hashes for row in self.plan.rows]
        ready = [hashes for hashes in rows if 2 * len(finished & {*hashes}) >= len(hashes)]
        return bool(rows) and 2 * len(ready) >= len(rows)


def stands(profile: Profile, store: Store) -> dict[str, Stand]:
    """Every experiment by name under a profile, see `reference_plans`."""
    plans = reference_plans(profile, store)
    return {name: Stand(planned, run_states(planned, store)) for name, planned in plans.items()}


def largest(scales: Sequence[Mapping[str, Stand]]) -> dict[str, Stand]:
    """Every experiment at the first of several scales where it is presentable; without one, at that with
    most runs.

    Args:
        scales: experiments by name, of each profile, the largest scale first.
    """

    def chosen(found: Sequence[Stand]) -> Stand:
        ready = [stand for stand in found if stand.presentable]
        return ready[0] if ready else max(found, key=lambda stand: len(stand.results))

    return {name: chosen([scale[name] for scale in scales]) for name in scales[0]}


def reference_plans(profile: Profile, store: Store) -> dict[str, Plan]:
    """Every experiment by name, with the data and the seeds of the store's runs."""
    return {name: _reference_plan(load_experiment(name), profile, store) for name in list_experiments()}


def import_runs(profile: Profile, source: Store, target: Store) -> Iterator[str]:
    """Copy the finished runs of a profile's experiments from one store into another; a line for each.

    Runs that nobody could repeat are refused: those with uncommitted changes, or without a commit. An
    existing result is never replaced.

    Raises:
        ConfigError: the profile's numbers mean nothing.
    """
    if profile.watermark:
        raise ConfigError(f"profile {profile.name} gives no reference results: {profile.watermark}")
    wanted: dict[str, tuple[RunSpec, set[str]]] = {}
    for name in list_experiments():
        experiment = load_experiment(name)
        kept = {RESULT, RANKS} if experiment.ranks is not None else {RESULT}
        # A sweep has more rows than a picture of snapshots could show: of its runs the final norm is kept.
        kept |= set() if experiment.sweep else {DIAGNOSTICS}
        for planned in _variants(experiment, profile, _seeds(source)):
            for spec in planned.runs.values():
                wanted[spec.hash] = (spec, kept | wanted.get(spec.hash, (spec, set()))[1])
    for spec, names in wanted.values():
        try:
            result, committed = source.result(spec), target.result(spec)
        except DamagedFile as error:
            yield f"damaged: {error}"
            continue
        if result is None:
            continue
        if not _clean(result.environment):
            yield f"refused: {spec.slug} was not executed from a clean checkout"
            continue
        if committed is not None and committed != result:
            yield f"kept: {spec.slug} has another result already; delete its folder to renew it"
            continue
        if (source.directory(spec) / UNMERGED).exists():
            names = {*names, DIAGNOSTICS}  # the share of dW that merging loses, shown beside its cost
        for name in sorted(names):
            path = source.directory(spec) / name
            try:
                _READERS[name](source, spec)
                content = read_regular(path)
            except DamagedFile as error:
                yield f"damaged: {error}"
                continue
            except ValueError as error:
                yield f"damaged: {path}: {error}"
                continue
            if content is not None:
                write_whole(target.directory(spec) / name, content)
        if DIAGNOSTICS not in names:
            try:
                norm = known_norm(spec, source)
            except DamagedFile as error:
                yield f"damaged: {error}"
                continue
            if norm is not None:
                write_json(target.directory(spec) / NORM, norm)
        yield f"taken over: {spec.slug}"
        yield from _take_over_unmerged(spec, result, source, target)
    here, there = source.folder.parent, target.folder.parent
    shared: dict[Path, Callable[[], Curvature | RandomRanks | None]] = {
        curvature_file(spec, there): partial(known_curvature, spec, here) for spec, _ in wanted.values()
    }
    for name in list_experiments():
        if (shown := load_experiment(name).ranks) is not None:
            sizes = shown.random_size, shown.random_rank
            shared[random_ranks_file(*sizes, there)] = partial(known_random_ranks, *sizes, here)
    for taken, read in shared.items():
        try:
            found = read()
        except DamagedFile as error:
            yield f"damaged: {error}"
            continue
        if found is not None:
            write_json(taken, found)
    for path in speed_files(here):
        yield from _take_over_speed(path, there)


def _take_over_unmerged(spec: RunSpec, result: Result, source: Store, target: Store) -> Iterator[str]:
    """The test of a run without merging, if there is one; a line if it cannot be taken over."""
    try:
        unmerged = known_unmerged(spec, result, source)
    except DamagedFile as error:
        yield f"damaged: {error}"
        return
    if unmerged is None:
        return
    if not _clean(unmerged.environment):
        yield f"refused: {source.directory(spec) / UNMERGED} was not executed from a clean checkout"
        return
    write_json(target.directory(spec) / UNMERGED, unmerged)


def _take_over_speed(path: Path, target: Path) -> Iterator[str]:
    """A benchmark, which renews an older one of its device: times are no result that could be repeated."""
    try:
        speed = read_speed(path)
    except DamagedFile as error:
        yield f"damaged: {error}"
        return
    if not _clean(speed.environment):
        yield f"refused: {path} was not measured from a clean checkout"
        return
    taken = speed_file(target, speed)
    write_whole(taken, path.read_bytes())
    yield f"taken over: {taken.name}"


def _clean(environment: Environment) -> bool:
    return environment.commit is not None and environment.dirty is False


def _reference_plan(experiment: Experiment, profile: Profile, store: Store) -> Plan:
    seeds = _seeds(store) or list(profile.seeds)
    # Of equally many, the first: without local data.
    found = max(
        _variants(experiment, profile, seeds), key=lambda planned: sum(_done(planned, store).values())
    )
    done = _done(found, store)
    # A run that another table shares does not make its seed one of this table's: half of the runs do.
    own = [seed for seed in seeds if 2 * done[seed] >= max(done.values())] if any(done.values()) else []
    usual = expand(experiment, profile, local_data=found.local_data)
    if {spec.seed for spec in usual.runs.values()}.issuperset(own):
        return usual
    return expand(experiment, profile, own, local_data=found.local_data)


def _variants(experiment: Experiment, profile: Profile, seeds: list[int]) -> Iterator[Plan]:
    for local_data in (False, True):
        yield expand(experiment, profile, seeds or profile.seeds, local_data=local_data)


def _done(planned: Plan, store: Store) -> Mapping[int, int]:
    """Finished runs that trained, by seed."""
    counts = {spec.seed: 0 for spec in planned.runs.values()}
    for spec in planned.runs.values():
        counts[spec.seed] += spec.trains and run_state(spec, store).state is State.DONE
    return counts


def _seeds(store: Store) -> list[int]:
    """Seeds of the store's runs."""
    found = (re.search(r"--seed([0-9]{1,9})--", path.name) for path in _folders(store))
    return sorted({int(match.group(1)) for match in found if match})


def _folders(store: Store) -> list[Path]:
    return [path for path in store.folder.glob("*") if (path / RESULT).exists()]
