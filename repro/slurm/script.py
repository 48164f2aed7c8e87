"""The batch script of an array."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from repro import variables
from repro.config import ConfigError
from repro.plans.cluster import Cluster, one_line
from repro.plans.spec import RunSpec
from repro.slurm.arrays import indices

# What a task needs of the environment in which it was submitted, besides REPRO_*: some sites pass none on. No
# secrets: a script can be read by others.
_EXPORTED = (
    "CC",
    "HF_DATASETS_OFFLINE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "WANDB_MODE",
    "XDG_CACHE_HOME",
)
_PATHS = (variables.DATA, variables.EXPERIMENTS, variables.RESULTS, "HF_HOME", "HF_HUB_CACHE")

# Below 32768, where Linux's own choices begin. Jobs that share a node have different ids.
_MEETING_POINT = (
    "# Where the nodes meet: on the first one, at a port of this job.",
    'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))",
    "export MASTER_ADDR MASTER_PORT",
)


def batch_script(
    runs: Mapping[int, Sequence[RunSpec]],
    *,
    name: str,
    logs: Path,
    cluster: Cluster,
    command: Sequence[str],
    environment: Mapping[str, str],
) -> str:
    """A script for sbatch.

    Args:
        runs: each task's, by its index.
        logs: existing folder for the tasks' logs.
        command: command that executes runs; their hashes are appended.
        environment: exported by the script, see `environment_of_tasks`.

    Raises:
        ConfigError: a path or value cannot be written in one line, or SLURM cannot write logs to such a path.
    """
    alone = cluster.nodes == 1
    limit = f"%{cluster.concurrent}" if cluster.concurrent else ""
    options = {
        "--job-name": name,
        "--array": indices(list(runs)) + limit,
        "--output": f"{_log_folder(logs)}/%a.log",
        "--partition": cluster.partition,
        "--account": cluster.account,
        "--time": cluster.time,
        "--nodes": cluster.nodes,
        "--cpus-per-task": cluster.cpus,
        "--mem": cluster.memory,
        "--gpus" if alone else "--gpus-per-node": None if cluster.gpus == "0" else cluster.gpus,
        # B: signal the batch script only, whose process the run replaces by exec. Without B: SLURM signals
        # the launchers that srun starts.
        "--signal": f"{'B:' if alone else ''}USR1@{cluster.notice}",
    }
    given = [f"{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    further = [shlex.join(shlex.split(option)) for option in cluster.options]
    lines = [
        "#!/usr/bin/env bash",
        "# Written by `repro submit`. The requested resources come from the profile's `cluster` section.",
        # A requeued run appends to the same log.
        *(f"#SBATCH {option}" for option in [*given, "--requeue", "--open-mode=append", *further]),
        "set -euo pipefail",
        "",
        "runs=(",
        *(_runs_of_task(index, specs) for index, specs in runs.items()),
        ")",
        f"export OMP_NUM_THREADS={cluster.cpus}",
        *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
        *([] if alone else _MEETING_POINT),
        "# exec, so that SLURM's signals reach the run itself.",
        f"exec {shlex.join([*_srun(cluster), *command])} ${{runs[$SLURM_ARRAY_TASK_ID]}}",
    ]
    for line in filter(None, lines):
        _checked("a line of the script", line)
    return "\n".join(lines) + "\n"


def _runs_of_task(index: int, specs: Sequence[RunSpec]) -> str:
    hashes = " ".join(spec.hash for spec in specs)
    return f"  [{index}]={shlex.quote(hashes)}  # {', '.join(spec.title for spec in specs)}"


def environment_of_tasks(environment: Mapping[str, str]) -> dict[str, str]:
    """What the tasks need of this environment, with absolute paths.

    Raises:
        ConfigError: a value cannot be written in one line.
    """
    given = {name: environment[name] for name in (*variables.VARIABLES, *_EXPORTED) if name in environment}
    return {
        name: os.path.abspath(os.path.expanduser(value)) if name in _PATHS and value else value
        for name, value in given.items()
        if not value or _checked(name, value)
    }


def _log_folder(logs: Path) -> str:
    """The folder as SLURM's file names have it: %% for %. A backslash would end all replacements."""
    if "\\" in str(logs):
        raise ConfigError(f"{logs}: SLURM cannot write logs below a folder with a backslash; choose another")
    return _checked("the folder of the logs", str(logs)).replace("%", "%%")


def _checked(what: str, value: str) -> str:
    try:
        return one_line(value)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def _srun(cluster: Cluster) -> list[str]:
    """One launcher per node. Since SLURM 22.05 srun does not inherit sbatch's --cpus-per-task.

    `--export=ALL`: of the script's environment, also where the site passes none of the submitter's on.
    """
    if cluster.nodes == 1:
        return []
    counts = [f"--nodes={cluster.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cluster.cpus}"]
    return ["srun", "--export=ALL", *counts, "--kill-on-bad-exit=1"]
