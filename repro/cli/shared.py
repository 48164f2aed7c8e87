"""Functions shared by several verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.files import check_writable
from repro.text import lines

if TYPE_CHECKING:
    from repro.plans.execution import Execution
    from repro.plans.plan import Plan
    from repro.plans.profile import Profile
    from repro.plans.spec import RunSpec
    from repro.runs.store import Store
    from repro.slurm.submissions import Submissions


def load(options: argparse.Namespace, *, local_data: bool | None = None) -> tuple[Plan, Store]:
    """The plan selected by the options, and the store of this machine's runs.

    Args:
        local_data: see `repro.plans.plan.expand`; None leaves it to the options.
    """
    from repro.paths import RESULTS
    from repro.plans.experiment import load_experiment
    from repro.plans.plan import expand
    from repro.plans.profile import load_profile
    from repro.runs.store import Store

    experiment = load_experiment(options.experiment)
    profile = load_profile(options.profile)
    data = options.data if local_data is None else None
    planned = expand(
        experiment, profile, options.seeds, preset=options.preset, local_data=local_data, data=data
    )
    return planned, Store(RESULTS / "runs")


def selected(plan: Plan, options: argparse.Namespace) -> Plan:
    """The part of a plan that `--models`, `--ungated` and `--rows` ask for.

    Raises:
        ConfigError: a name that there is not, or nothing is left.
    """
    if options.models:
        plan = plan.only_models(options.models)
    if options.ungated:
        plan = plan.only_ungated()
    return plan.only(options.rows) if options.rows else plan


def execute_here(
    profile: Profile,
    specs: Sequence[RunSpec],
    store: Store,
    options: argparse.Namespace,
    group: str,
    adapted: Callable[[RunSpec, Execution], Execution] = lambda spec, execution: execution,
) -> list[str]:
    """Execute runs in this process, one after the other, and show their progress.

    Args:
        adapted: changes the profile's execution settings of a run.

    Returns:
        A line for each model and data set that is not here. Its runs are not started, and leave no failure.
    """

    def execution(spec: RunSpec) -> Execution:
        settings = profile.execution_for(spec.benchmark.family, spec.model.name)
        logged = settings.model_copy(update={"wandb": settings.wandb and not options.no_wandb})
        return adapted(spec, logged)

    # Before torch is loaded and anything is trained.
    from repro.runs.preflight import check_machine, ready

    check_writable(store.folder)
    check_machine(map(execution, specs))
    specs, absent = ready(specs)
    problems = [f"not started: {problem}" for problem in absent]
    if not specs:
        return problems

    from rich.console import Console

    from repro.runs.local import run_here
    from repro.runs.progress import Watch

    run_here(
        specs,
        store=store,
        execution=execution,
        group=group,
        watch=Watch(len(specs), Console(stderr=True)),
    )
    return problems


def tell(problems: Iterable[str]) -> int:
    """Print what went wrong, a line each. Returns the exit status: 1 if there is any."""
    found = list(problems)
    for problem in found:
        print(lines(problem), file=sys.stderr)
    return 1 if found else 0


def short(path: Path) -> str:
    """The path relative to the current folder, if it is below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def submissions() -> Submissions:
    """The arrays submitted to SLURM from this results folder."""
    from repro.paths import RESULTS
    from repro.slurm.submissions import Submissions

    return Submissions(RESULTS / "slurm")
