"""Verbs for SLURM."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from repro.cli.shared import execute_here, load, selected, submissions, tell
from repro.runs.interruption import Interrupted, on_stop_signal
from repro.runs.node import this_node

if TYPE_CHECKING:
    from repro.plans.cluster import Cluster
    from repro.plans.plan import Plan
    from repro.plans.spec import RunSpec


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
        count += array.tasks
        waits = f", each after the task of {array.after} with the same index" if array.after else ""
        if options.dry_run:
            print(f"{array.script}# not submitted: {array.name}, {array.tasks} tasks{waits}\n")
        else:
            print(f"job {array.job}: {array.name}, {array.tasks} tasks{waits}")
    print(f"{count} runs {'would be ' if options.dry_run else ''}submitted", file=sys.stderr)
    return tell(damaged_files(run_states(plan, store), store))


def _cluster(plan: Plan, spec: RunSpec, options: argparse.Namespace) -> Cluster:
    """The profile's SLURM resources, overridden by the flags."""
    from repro.config import ConfigError, parse
    from repro.plans.cluster import Cluster

    names = ("partition", "account", "time", "gpus", "cpus", "memory", "concurrent")
    flags = {name: value for name in names if (value := getattr(options, name)) is not None}
    needs = parse(plan.profile.cluster_for(spec.model.name).model_dump() | flags, Cluster, "submit")
    nodes = plan.profile.execution_for(spec.benchmark.family, spec.model.name).nodes
    if needs.nodes != nodes:
        raise ConfigError(
            f"profile {plan.profile.name}: execution.nodes is {nodes} and cluster.nodes {needs.nodes} for "
            f"{spec.model.name}; set both to the same number"
        )
    return needs


def cancel_runs(options: argparse.Namespace) -> int:
    """`cancel`: cancel the experiment's tasks in the queue."""
    from repro.slurm.commands import cancel, queue

    plan, _ = load(options)
    queued = submissions().queued(queue())
    runs = selected(plan, options).runs
    tasks = [task for hash, task in queued.items() if hash in runs]
    if tasks:
        cancel(tasks)
    print(f"{len(tasks)} tasks cancelled")
    return 0


def execute_task(options: argparse.Namespace) -> int:
    """`task`: execute one run inside a SLURM job, and requeue it if it is told to stop."""
    from repro.runs.states import State, run_state
    from repro.slurm.commands import requeue_this_task, restarts

    plan, store = load(options)
    _check_data(plan, options)
    spec = plan.run(options.run)
    nodes = plan.profile.execution_for(spec.benchmark.family, spec.model.name).nodes
    if nodes > 1 and this_node() > 0:
        return 0 if run_state(spec, store).state is State.DONE else _join(nodes)
    print(f"start {restarts() + 1}: {spec.slug}", file=sys.stderr)
    try:
        execute_here(plan.profile, [spec], store, options, plan.experiment.name)
    except Interrupted:
        if restarts() >= plan.profile.cluster_for(spec.model.name).restarts:
            print("told to stop more often than cluster.restarts allows, not requeued", file=sys.stderr)
            return 1
        with on_stop_signal(lambda: None):  # SLURM signals a task that it requeues
            requeued = requeue_this_task()
        what = ": requeued, to continue from the last checkpoint" if requeued else " for good, not requeued"
        print(f"told to stop{what}", file=sys.stderr)
        return 130
    return 0 if run_state(spec, store).state is State.DONE else 1


def _check_data(plan: Plan, options: argparse.Namespace) -> None:
    """Say where a run is planned only with, or only without, local data, and its task has it otherwise.

    Raises:
        ConfigError: this is so.
    """
    from repro import variables
    from repro.config import ConfigError

    if options.run in plan.runs or options.run not in load(options, local_data=not plan.local_data)[0].runs:
        return
    before, now = ("without", "with") if plan.local_data else ("with", "without")
    raise ConfigError(
        f"run {options.run!r} was planned {before} {variables.DATA}, and this task is {now} it; "
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
