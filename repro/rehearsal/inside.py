"""What a rehearsal does where REPRO_EXPERIMENTS_DIR, REPRO_RESULTS_DIR and HF_HOME name its own folders."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from repro.paths import RESULTS
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.rehearsal.checkpoints import write_checkpoint
from repro.rehearsal.data_sets import texts, write_data_sets
from repro.runs.states import State, run_states
from repro.runs.store import Store

# One seed: the others take the same path.
_SEEDS = (0,)

# Minutes that a task of SLURM may take, and seconds between two looks at it.
_TASK_MINUTES = 10
_PAUSE = 5


def rehearse(options: argparse.Namespace) -> int:
    """Write what the runs need into the hub's cache, execute and render them, and list how each row ended.

    Returns:
        The exit status: 1 if a run failed, or a table could not be rendered.
    """
    lines, failed, written = [], False, set[str]()
    for name in options.experiments:
        plan = expand(load_experiment(name), load_profile(options.profile), _SEEDS, local_data=False)
        chosen = plan.only_models(options.models.split(",")) if options.models else plan
        chosen = chosen.only_ungated() if options.ungated else chosen
        chosen = chosen.only(options.rows.split(",")) if options.rows else chosen
        chosen = replace(chosen, rows=chosen.rows[:1]) if options.submit else chosen
        _write_stand_ins(chosen, options.hub, written)
        call = [name, "--profile", options.profile, "--seeds", ",".join(map(str, _SEEDS))]
        started = time.perf_counter()
        if options.submit:
            status = _submit(chosen, call)
        else:
            call += ["--rows", options.rows] if options.rows else []
            call += ["--models", options.models] if options.models else []
            call += ["--ungated"] if options.ungated else []
            status = _run([*call, "--no-wandb"], options.jobs)
        lines += [f"{name}: {time.perf_counter() - started:.0f} s", *_rows(chosen)]
        failed = failed or status != 0
    print("\n".join(["", "what ran", *lines, "a call failed, see above" if failed else ""]), flush=True)
    return int(failed)


def _write_stand_ins(plan: Plan, hub: Path, written: set[str]) -> None:
    family = plan.experiment.family
    if family not in written:
        write_data_sets(family, hub)
        written.add(family)
    for model in {spec.model.name: spec.model for spec in plan.runs.values()}.values():
        if model.source == "hub" and model.name not in written:
            write_checkpoint(model, hub, list(texts(family)))
            written.add(model.name)


def _repro(verb: str, call: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "repro.cli", verb, *call]


def _run(call: Sequence[str], jobs: int) -> int:
    """`repro run` in several processes, each of which skips the runs of the others; then once more.

    The last call executes what had to wait for a run of another process, and renders.
    """
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    others = [
        subprocess.Popen(
            _repro("run", call), env=one_thread, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(jobs - 1)
    ]
    if others:
        subprocess.run(_repro("run", call), env=one_thread, stdout=subprocess.DEVNULL)
    for other in others:
        other.wait()
    return subprocess.run(_repro("run", call), env=one_thread).returncode


def _submit(plan: Plan, call: Sequence[str]) -> int:
    """The plan's only row as tasks of SLURM, with the resources that the profile asks for."""
    chosen = ["--rows", plan.rows[0].id, "--models", plan.rows[0].block]
    wanted = [*call, *chosen, "--time", f"{_TASK_MINUTES}:00", "--no-wandb"]
    if status := subprocess.run(_repro("submit", wanted)).returncode:
        return status
    store, end = Store(RESULTS / "runs"), time.monotonic() + 60 * _TASK_MINUTES
    while time.monotonic() < end:
        states = {state.state for state in run_states(plan, store)}
        if states <= {State.DONE, State.FAILED}:
            break
        time.sleep(_PAUSE)
    subprocess.run(_repro("status", [*call, *chosen]))  # of a task that was lost, the last line of its log
    return int(states != {State.DONE})


def _rows(plan: Plan) -> list[str]:
    """A line for each row with what became of its runs, and one for each run that did not end well."""
    by_hash = {state.spec.hash: state for state in run_states(plan, Store(RESULTS / "runs"))}
    lines = []
    for row in plan.rows:
        states = [by_hash[spec.hash] for spec in row.specs]
        done = sum(state.state is State.DONE for state in states)
        lines.append(f"  {row.block} {row.id}: {done} of {len(states)} runs")
        lines += [
            f"    {state.state}: {state.spec.slug}: {state.detail}"
            for state in states
            if state.state is not State.DONE
        ]
    return lines
