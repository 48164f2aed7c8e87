"""Submits a plan's missing runs to SLURM."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from repro.plans.cluster import Cluster
from repro.plans.plan import Plan
from repro.plans.spec import RunSpec
from repro.runs.states import RunState, State, run_states, to_execute
from repro.runs.store import Store
from repro.slurm import commands
from repro.slurm.arrays import Array, Place, make_arrays
from repro.slurm.script import batch_script, environment_of_tasks
from repro.slurm.submissions import Submissions


@dataclass(frozen=True)
class Submitted:
    """An array that was submitted, or would be in a dry run.

    Attributes:
        job: SLURM's job id; None in a dry run.
        after: job id (in a dry run, name) of the array whose tasks these tasks wait for, index by index.
    """

    name: str
    script: str
    tasks: int
    runs: int
    job: str | None
    after: str | None


def submit(
    plan: Plan,
    store: Store,
    submissions: Submissions,
    *,
    cluster: Callable[[RunSpec], Cluster],
    command: Sequence[str],
    retry_failed: bool = False,
    dry_run: bool = False,
) -> Iterator[Submitted]:
    """Submit the runs of a plan that are neither done nor queued, as arrays.

    Args:
        cluster: resources of a run's task; runs with the same resources share arrays.
        command: command that executes runs; their hashes are appended.
        retry_failed: submit failed runs as well.
        dry_run: write and submit nothing; works without SLURM.

    Raises:
        ConfigError: SLURM does not answer, or rejects an array.
    """
    with nullcontext() if dry_run else submissions.locked():
        alone = dry_run and not commands.answers()
        # Read the queue before the store, so that a run that ends in between is seen in one of them.
        queued = {} if alone else submissions.queued(commands.queue())
        states = run_states(plan, store)
        places = {hash: Place(task.job, task.index) for hash, task in queued.items()}
        specs = to_submit(states, places, retry_failed=retry_failed)
        ids: dict[Array, str] = {}
        longest = commands.DEFAULT_LONGEST_ARRAY if alone else commands.longest_array()
        alike: dict[Cluster, list[RunSpec]] = {}
        for spec in specs:  # a run and the run it starts from share the model, and so the resources
            alike.setdefault(cluster(spec), []).append(spec)
        arrays = [
            (needs, array)
            for needs, runs in alike.items()
            for array in make_arrays(runs, places, longest, needs.runs_per_task)
        ]
        for needs, array in arrays:
            name = submissions.new_name(plan.experiment.name, plan.profile.name)
            script = batch_script(
                array.runs,
                name=name,
                logs=submissions.script(name).parent.resolve(),
                cluster=needs,
                command=command,
                environment=environment_of_tasks(os.environ),
            )
            after = ids[array.after] if isinstance(array.after, Array) else array.after
            job = None
            if not dry_run:
                submissions.write(name, array.runs, script)
                job = commands.submit(submissions.script(name), after)
            ids[array] = job or name
            yield Submitted(name, script, len(array.runs), sum(map(len, array.runs.values())), job, after)


def to_submit(
    states: Sequence[RunState], queued: Mapping[str, Place], *, retry_failed: bool
) -> Iterator[RunSpec]:
    """The runs to execute that are not queued, except those that start from a run that will not exist."""
    coming = {state.spec.hash for state in states if state.state is State.DONE} | queued.keys()
    for spec in to_execute(states, retry_failed=retry_failed):
        if spec.hash not in queued and (spec.parent is None or spec.parent.hash in coming):
            coming.add(spec.hash)
            yield spec
