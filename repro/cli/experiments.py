"""Verbs for an experiment and its runs on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.cli.shared import execute_here, load, selected, short, submissions, tell
from repro.config import ConfigError

if TYPE_CHECKING:
    from repro.plans.execution import Execution
    from repro.plans.plan import Plan
    from repro.plans.spec import RunSpec
    from repro.runs.states import RunState
    from repro.runs.store import Store


def show_names(options: argparse.Namespace) -> int:
    """`list`: the names of experiments, profiles, models, methods and presets."""
    from repro.methods.registry import METHODS
    from repro.models.spec import list_models
    from repro.plans.experiment import list_experiments
    from repro.plans.profile import list_profiles
    from repro.plans.settings import list_presets

    for kind, names in [
        ("experiments", list_experiments()),
        ("profiles", list_profiles()),
        ("models", list_models()),
        ("methods", list(METHODS)),
        ("presets", list_presets()),
    ]:
        print(f"{kind + ':':<13}{' '.join(names)}")
    return 0


def show_plan(options: argparse.Namespace) -> int:
    """`plan`: the runs with their states, and the estimated cost."""
    from repro.analysis.damaged_files import damaged_files
    from repro.analysis.estimates import estimate
    from repro.paths import REFERENCE
    from repro.plans.gpu import load_gpu
    from repro.report.costs import describe_costs
    from repro.report.plans import describe_plan
    from repro.runs.states import run_states
    from repro.runs.store import Store

    gpu = load_gpu(options.gpu)
    whole, store = load(options)
    plan = selected(whole, options)
    states = run_states(plan, store)
    estimates = estimate(states, plan.execution, gpu)
    committed = run_states(plan, Store(REFERENCE / "runs"))
    described = describe_plan(plan, states, lambda spec: estimates.executions[spec.hash], committed)
    print(f"{described}\n\n{describe_costs(plan, estimates, gpu)}")
    return tell(damaged_files(states, store))


def show_status(options: argparse.Namespace) -> int:
    """`status`: one line per run, with its task in SLURM's queue if there is one."""
    from repro.report.plans import summarise
    from repro.runs.states import State, run_states
    from repro.slurm.commands import answers, queue

    plan, store = load(options)
    tasks = queue() if answers() else None
    states = run_states(selected(plan, options), store)
    if tasks is not None:
        states = submissions().joined(states, tasks)
    for state in states:
        print(f"{state.state:<11}{state.spec.slug}" + (f"  {state.detail}" if state.detail else ""))
    print(summarise(states))
    return 1 if any(state.state in (State.FAILED, State.DAMAGED) for state in states) else 0


def run(options: argparse.Namespace) -> int:
    """`run`: execute missing runs, then print and write the table. `run --from`: rerun a single run."""
    if options.file is not None:
        if options.rows or options.models or options.ungated:
            raise ConfigError(
                "--rows, --models and --ungated select runs of an experiment; --from has one run"
            )
        return _rerun(options)
    from repro.report.plans import describe_batches
    from repro.runs.states import run_states, to_execute

    plan, store = load(options)
    states = run_states(selected(plan, options), store)
    for state in states:
        if state.result is not None:
            store.sweep(state.spec)
    specs = to_execute(states, retry_failed=options.retry_failed)
    done = sum(state.result is not None for state in states)
    name, profile = plan.experiment.name, plan.profile.name
    print(f"{name}, profile {profile}: {done} of {len(states)} runs are done, executing {len(specs)}")
    for line in describe_batches(plan.execution, specs):
        print(line)
    problems = execute_here(plan.profile, specs, store, options, plan.experiment.name) if specs else []
    states = run_states(plan, store)
    problems += _failed(states)
    if options.check:
        problems += _failed_probes(states)
    if plan.experiment.ranks is not None:
        problems += _analyse_ranks(plan, states, store)
    return tell([*problems, *_print_experiment(plan, states, store)])


def _rerun(options: argparse.Namespace) -> int:
    """Execute the run of a result file, unless this store has it, and compare the two results."""
    from repro.analysis.rerun_comparison import compare
    from repro.paths import RESULTS
    from repro.plans.profile import load_profile
    from repro.report.rerun import describe_rerun
    from repro.runs.rerun import executed_as, read_run
    from repro.runs.states import run_state
    from repro.runs.store import Store

    spec, before = read_run(options.file)

    def as_recorded(run: RunSpec, execution: Execution) -> Execution:
        return executed_as(before, execution) if run == spec else execution

    store = Store(RESULTS / "runs")
    there = run_state(spec, store).result
    if there is not None and (there.finished, there.total_seconds) == (before.finished, before.total_seconds):
        raise ConfigError(
            f"{store.directory(spec)} has the very run of {options.file}, which would be compared with "
            "itself; set REPRO_RESULTS_DIR to another folder"
        )
    specs = [needed for needed in (*spec.needed, spec) if not store.is_done(needed)]
    print(f"{spec.slug}: {'executing' if specs else 'already done here, comparing'}", file=sys.stderr)
    problems: list[str] = []
    if specs:
        problems = execute_here(load_profile(options.profile), specs, store, options, "rerun", as_recorded)
    state = run_state(spec, store)
    if state.result is None:
        return tell(problems or _failed([state]) or [f"{state.state}: {state.detail or spec.slug}"])
    comparison = compare(before, state.result)
    print(describe_rerun(comparison))
    return 0 if comparison.within_tolerance else 1


def score(options: argparse.Namespace) -> int:
    """`score`: score the stored predictions again with the current scorers."""
    from repro.runs.rescoring import rescored
    from repro.runs.states import State, run_states
    from repro.runs.store import RunBusy

    plan, store = load(options)
    problems = []
    for state in run_states(selected(plan, options), store):
        spec, before = state.spec, state.result
        if state.state is State.DAMAGED:
            problems.append(f"damaged: {state.detail}")
        if before is None:
            continue
        try:
            with store.claimed(spec):
                after = rescored(spec, before, store, note=lambda line: print(line, file=sys.stderr))
                store.write_result(spec, after)
        except (ConfigError, RunBusy) as error:
            problems.append(f"not scored: {spec.slug}: {error}")
            continue
        changed = sum(score.value != before.scores[name].value for name, score in after.scores.items())
        scored = f"scored with version {spec.benchmark.scorer_version}"
        print(f"{spec.slug}: {scored}, {changed} of {len(after.scores)} values changed")
    return tell(problems)


def render(options: argparse.Namespace) -> int:
    """`render`: print the table, and write it with its figures; a part of it into a folder of its own."""
    from repro.paths import RESULTS
    from repro.runs.states import run_states

    whole, store = load(options)
    plan = selected(whole, options)
    results = RESULTS / "selection" if plan.rows != whole.rows else RESULTS
    return tell(_print_experiment(plan, run_states(plan, store), store, results, costs=options.costs))


def measure_curvature(options: argparse.Namespace) -> int:
    """`curvature`: the curvature where runs start, once for runs that differ in their learning rate alone."""
    from repro.analysis.curvature import run_curvature
    from repro.quiet import quiet_libraries
    from repro.runs.bases import BaseModels
    from repro.runs.known_curvature import curvature_file, start_of
    from repro.runs.store import RunWaits

    whole, store = load(options)
    starts = {
        start_of(spec).hash: spec for spec in selected(whole, options).runs.values() if spec.method.trains
    }
    bases, problems = BaseModels(), []
    for spec in starts.values():
        try:
            with quiet_libraries():
                found = run_curvature(spec, store, bases, options.batches)
        except (ConfigError, RunWaits) as error:
            problems.append(f"no curvature: {error}")
            continue
        print(
            f"{spec.title}: {found.largest:g} over {found.examples} examples, {found.products} products, "
            f"{found.seconds:.0f} s: {short(curvature_file(spec, store.folder.parent))}"
        )
    return tell(problems)


def evaluate_unmerged(options: argparse.Namespace) -> int:
    """`unmerged`: the test of finished runs without merging, beside their merged one."""
    from repro.runs.bases import BaseModels
    from repro.runs.known_unmerged import was_merged
    from repro.runs.states import State, run_states
    from repro.runs.store import UNMERGED
    from repro.runs.unmerged import run_unmerged

    whole, store = load(options)
    states = run_states(selected(whole, options), store)
    done = [(state.spec, state.result) for state in states if state.result and was_merged(state.result)]
    name, profile = whole.experiment.name, whole.profile.name
    print(f"{name}, profile {profile}: {len(done)} of {len(states)} runs are done and were tested merged")
    bases = BaseModels()
    problems = [f"damaged: {state.detail}" for state in states if state.state is State.DAMAGED]
    for spec, result in done:
        file = store.directory(spec) / UNMERGED
        if not file.exists():
            print(f"testing {spec.title} without merging", file=sys.stderr)
        execution = whole.profile.execution_for(spec.benchmark.family, spec.model.name)
        try:
            found = run_unmerged(spec, result, store, execution, bases)
        except Exception as error:  # whatever it is, the other runs go on
            kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
            problems.append(f"not tested: {spec.slug}: {kind}{' '.join(str(error).split())}")
            continue
        print(f"{spec.title}: {found.seconds:.0f} s: {short(file)}")
    return tell(problems)


def _analyse_ranks(plan: Plan, states: Sequence[RunState], store: Store) -> list[str]:
    """Compute the ranks of finished runs where they are not stored yet. Returns one line per failure."""
    from repro.analysis.run_ranks import random_ranks, run_ranks
    from repro.quiet import quiet_libraries
    from repro.runs.bases import BaseModels
    from repro.runs.store import RunWaits

    bases, problems = BaseModels(), []
    for state in states:
        if state.result is not None:
            print(f"ranks of {state.spec.title}", file=sys.stderr)
            try:
                with quiet_libraries():
                    run_ranks(state.spec, store, bases)
            except (ConfigError, RunWaits) as error:
                problems.append(f"no ranks: {error}")
    wanted = plan.experiment.ranks
    assert wanted is not None
    try:
        random_ranks(wanted.random_size, wanted.random_rank, store.folder.parent)
    except ConfigError as error:
        problems.append(f"no ranks: {error}")
    return problems


def _failed(states: Sequence[RunState]) -> list[str]:
    from repro.runs.states import State

    lines = []
    for state in states:
        if state.state is State.FAILED:
            how = "the same command executes it again" if state.again else "--retry-failed executes it again"
            lines.append(f"failed: {state.spec.slug}: {state.detail}; {how}")
    return lines


def _failed_probes(states: Sequence[RunState]) -> list[str]:
    return [
        f"{state.spec.slug}: {probe.warning}"
        for state in states
        for probe in (state.result.probes if state.result else ())
        if probe.warning
    ]


def _print_experiment(
    plan: Plan,
    states: Sequence[RunState],
    store: Store,
    results: Path | None = None,
    *,
    costs: bool = False,
) -> list[str]:
    """Print and write the table or figure. Returns a line for every file that could not be used for it.

    Args:
        results: where to write; None writes to the results folder.
        costs: whether the table has columns of costs.
    """
    from repro.analysis.damaged_files import damaged_files, damaged_random_ranks
    from repro.paths import RESULTS
    from repro.report.output import write_experiment

    text, written = write_experiment(plan, states, store, results or RESULTS, costs=costs)
    print(f"\n{text}\n\nwritten: " + ", ".join(short(path) for path in written))
    return damaged_files(states, store) + damaged_random_ranks([plan.experiment], RESULTS)
