"""The verb `rehearse`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from repro.cli.shared import selected, submissions, tell
from repro.config import ConfigError


def rehearse(options: argparse.Namespace) -> int:
    """`rehearse`: execute the profile's runs with tiny models and data, then say what the real ones need."""
    from repro.analysis.estimates import estimate
    from repro.paths import RESULTS
    from repro.plans.experiment import list_experiments, load_experiment
    from repro.plans.gpu import load_gpu
    from repro.plans.plan import expand
    from repro.plans.profile import load_profile
    from repro.rehearsal.login_node import check_login_node
    from repro.rehearsal.needs import needs
    from repro.rehearsal.world import World
    from repro.runs.states import run_states
    from repro.runs.store import Store

    names = options.experiments or [name for name in list_experiments() if "/" not in name]
    profile, gpu = load_profile(options.profile), load_gpu(options.gpu)
    plans = [expand(load_experiment(name), profile, local_data=False) for name in names]
    if (options.rows or options.models) and len(plans) > 1:
        raise ConfigError(f"--rows and --models choose within one experiment (got {len(plans)}); name one")
    plans = [selected(plan, options) for plan in plans]
    world = World(RESULTS / "rehearsal")
    world.build(options.profile, accelerator="auto" if options.submit else "cpu")
    command = [sys.executable, "-m", "repro.rehearsal", str(world.hub), options.profile, *names]
    command += ["--jobs", str(options.jobs)] + (["--submit"] if options.submit else [])
    command += _selection(options)
    status = subprocess.run(command, env=world.environment()).returncode

    store, problems = Store(RESULTS / "runs"), []
    for plan in plans:
        print(f"\nthe real {plan.experiment.name}, profile {profile.name}, needs")
        print("\n".join(needs(estimate(run_states(plan, store), plan.execution, gpu), RESULTS)))
        problems += check_login_node(
            plan, store, submissions(), lambda spec: profile.cluster_for(spec.model.name)
        )
    return tell(dict.fromkeys(problems)) or status


def _selection(options: argparse.Namespace) -> list[str]:
    """The options that choose rows and models."""
    rows = ["--rows", ",".join(options.rows)] if options.rows else []
    models = ["--models", ",".join(options.models)] if options.models else []
    return [*rows, *models, *(["--ungated"] if options.ungated else [])]


def default_jobs() -> int:
    """Processes at once: a tiny model keeps one core busy, and a run shared by two processes takes two."""
    return min(os.cpu_count() or 1, 4)
