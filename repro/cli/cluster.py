"""Verbs for SLURM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.cli.shared import execute_here, load, selected, submissions, tell
from repro.runs.interruption import Interrupted, on_stop_signal
from repro.runs.node import this_node

if TYPE_CHECKING:
    from repro.plans.cluster import Cluster
    from repro.plans.plan import Plan
    from repro.plans.spec import RunSpec
    from repro.runs.store import Store
    from repro.slurm.commands import Task


def submit_runs(options: argparse.Namespace) -> int:
    """`submit`: submit missing runs as SLURM arrays, or print the scripts."""
    from repro.analysis.damaged_files import damaged_files
    from repro.runs.states import run_states
    from repro.slurm.submit import submit

    plan, store = load(options)
    command = [sys.executable, "-m", "repro.cli", "task", options.experiment, "--profile", options.profile]
    if options.seeds:
        command += ["--seeds", ",".join(map(str, options.seeds))]
    if options.preset:
        command += ["--preset", options.preset]
    if options.data:
        command += ["--data", options.data]
    if options.no_wandb:
        command += ["--no-wandb"]
    count = 0
    for array in submit(
        selected(plan, options),
        store,
        submissions(),
        cluster=lambda spec: _cluster(plan, spec, options),
        command=command,
        retry_failed=options.retry_failed,
        dry_run=options.dry_run,
    ):
        count += array.runs
        what = f"{array.name}, {array.tasks} tasks"
        if array.runs > array.tasks:
            what += f" of {array.runs} runs"
        if array.after:
            what += f", each after the task of {array.after} with the same index"
        if options.dry_run:
            print(f"{array.script}# not submitted: {what}\n")
        else:
            print(f"job {array.job}: {what}")
    print(f"{count} runs {'would be ' if options.dry_run else ''}submitted", file=sys.stderr)
    return tell(damaged_files(run_states(plan, store), store))


def _cluster(plan: Plan, spec: RunSpec, options: argparse.Namespace) -> Cluster:
    """The profile's SLURM resources, overridden by the flags."""
    from repro.config import ConfigError, parse
    from repro.plans.cluster import Cluster

    names = ("partition", "account", "time", "gpus", "cpus", "memory", "concurrent", "runs_per_task")
    flags = {name: value for name in names if (value := getattr(options, name)) is not None}
    needs = parse(plan.profile.cluster_for(spec.model.name).model_dump() | flags, Cluster, "submit")
    execution = plan.execution(spec)
    if needs.nodes != execution.nodes:
        raise ConfigError(
            f"profile {plan.profile.name}: execution.nodes is {execution.nodes} and cluster.nodes "
            f"{needs.nodes} for {spec.model.name}; set both to the same number"
        )
    if needs.runs_per_task > 1 and execution.processes > 1:
        raise ConfigError(
            f"cluster.runs_per_task is {needs.runs_per_task}, and a run of {spec.model.name} has "
            f"{execution.processes} processes, which load the model anew for each run; allowed: 1. Set it to "
            f"1 in models.{spec.model.name}.cluster of profile {plan.profile.name}, or submit these runs "
            "apart, without --runs-per-task"
        )
    return needs


def cancel_runs(options: argparse.Namespace) -> int:
    """`cancel`: cancel the experiment's tasks in the queue, but none that has other runs as well."""
    from repro.slurm.commands import cancel, queue

    plan, _ = load(options)
    chosen = selected(plan, options).runs
    runs: dict[Task, list[str]] = {}
    for hash, task in submissions().queued(queue()).items():
        runs.setdefault(task, []).append(hash)
    tasks = [task for task, hashes in runs.items() if chosen.keys() >= set(hashes)]
    if tasks:
        cancel(tasks)
    print(f"{len(tasks)} tasks cancelled")
    return tell(
        f"not cancelled: task {task.id} has other runs as well; `scancel {task.id}` ends them all"
        for task, hashes in runs.items()
        if task not in tasks and not plan.runs.keys().isdisjoint(hashes)
    )


def execute_task(options: argparse.Namespace) -> int:
    """`task`: execute runs inside a SLURM job, and requeue it if it is told to stop."""
    from repro.config import ConfigError
    from repro.runs.states import State, run_state
    from repro.slurm.commands import requeue_this_task, restarts

    plan, store = load(options)
    _check_data(plan, options)
    named = {plan.run(name).hash for name in options.runs}
    specs = [spec for hash, spec in plan.runs.items() if hash in named]  # a run behind the one it starts from
    execution = plan.execution(specs[0])
    if len(specs) > 1 and any(plan.execution(spec).processes > 1 for spec in specs):
        raise ConfigError(
            f"task: {len(specs)} runs, of which one has several processes; give such a run a task alone"
        )
    if execution.nodes > 1 and this_node() > 0:
        done = run_state(specs[0], store).state is State.DONE
        return 0 if done else _join(execution.nodes)
    print(f"start {restarts() + 1}: {', '.join(spec.slug for spec in specs)}", file=sys.stderr)
    try:
        tell(execute_here(plan.profile, _left(specs, store), store, options, plan.experiment.name))
    except Interrupted:
        if restarts() >= plan.profile.cluster_for(specs[0].model.name).restarts:
            print("told to stop more often than cluster.restarts allows, not requeued", file=sys.stderr)
            return 1
        with on_stop_signal(lambda: None):  # SLURM signals a task that it requeues
            requeued = requeue_this_task()
        what = ": requeued, to continue from the last checkpoint" if requeued else " for good, not requeued"
        print(f"told to stop{what}", file=sys.stderr)
        return 130
    return 0 if all(run_state(spec, store).state is State.DONE for spec in specs) else 1


def _left(specs: Sequence[RunSpec], store: Store) -> Sequence[RunSpec]:
    """The runs with which this task goes on, see `Submission.left`; all of a task that nobody submitted."""
    from repro.runs.states import run_state
    from repro.slurm.commands import name_of_this_array

    array = submissions().array(name_of_this_array())
    states = [run_state(spec, store) for spec in specs]
    return [state.spec for state in array.left(states)] if array is not None else specs


def _check_data(plan: Plan, options: argparse.Namespace) -> None:
    """Say where a run is planned only with, or only without, local data, and its task has it otherwise.

    Raises:
        ConfigError: this is so.
    """
    from repro import variables
    from repro.config import ConfigError

    missing = [run for run in options.runs if run not in plan.runs]
    if options.data is not None or not missing:
        return
    others = load(options, local_data=not plan.local_data)[0].runs
    planned = [run for run in missing if run in others]
    if not planned:
        return
    before, now = ("without", "with") if plan.local_data else ("with", "without")
    raise ConfigError(
        f"run {planned[0]!r} was planned {before} {variables.DATA}, and this task is {now} it; "
        f"{'unset' if plan.local_data else 'set'} it, for instance where the site gives tasks an environment "
        "of their own, or submit again"
    )


def _join(nodes: int) -> int:
    """Work on the run that node 0 executes. Only node 0's status counts: srun ends all nodes if one fails."""
    from repro.runs.processes import ProcessError, join_processes

    try:
        join_processes(nodes)
    except (Interrupted, ProcessError) as error:
        print(f"node {this_node()}: {error}", file=sys.stderr)
    return 0
