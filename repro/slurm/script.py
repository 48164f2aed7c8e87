"""The batch script of an array."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from repro.plans.cluster import Cluster
from repro.plans.spec import RunSpec
from repro.slurm.arrays import indices

# Below 32768, where Linux's own choices begin. Jobs that share a node have different ids.
_MEETING_POINT = (
    "# Where the nodes meet: on the first one, at a port of this job.",
    'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))",
    "export MASTER_ADDR MASTER_PORT",
)


def batch_script(
    runs: Mapping[int, RunSpec], *, name: str, logs: Path, cluster: Cluster, command: Sequence[str]
) -> str:
    """A script for sbatch with one run per task.

    Args:
        runs: by task index.
        logs: existing folder for the tasks' logs.
        command: command that executes a run; the run's hash is appended.
    """
    alone = cluster.nodes == 1
    limit = f"%{cluster.concurrent}" if cluster.concurrent else ""
    options = {
        "--job-name": name,
        "--array": indices(list(runs)) + limit,
        "--output": f"{logs}/%a.log",
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
    lines = [
        "#!/usr/bin/env bash",
        "# Written by `repro submit`. The requested resources come from the profile's `cluster` section.",
        # A requeued run appends to the same log.
        *(f"#SBATCH {option}" for option in [*given, "--requeue", "--open-mode=append", *cluster.options]),
        "set -euo pipefail",
        "",
        "runs=(",
        *(f"  [{index}]={spec.hash}  # {spec.title}" for index, spec in runs.items()),
        ")",
        f"export OMP_NUM_THREADS={cluster.cpus}",
        *([] if alone else _MEETING_POINT),
        "# exec, so that SLURM's signals reach the run itself.",
        f'exec {shlex.join([*_srun(cluster), *command])} "${{runs[$SLURM_ARRAY_TASK_ID]}}"',
    ]
    return "\n".join(lines) + "\n"


def _srun(cluster: Cluster) -> list[str]:
    """One launcher per node. Since SLURM 22.05 srun does not inherit sbatch's --cpus-per-task."""
    if cluster.nodes == 1:
        return []
    counts = [f"--nodes={cluster.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cluster.cpus}"]
    return ["srun", *counts, "--kill-on-bad-exit=1"]
