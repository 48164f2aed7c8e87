"""What only a cluster can say of a plan: whether SLURM takes its jobs, and whether its models are there."""

from __future__ import annotations

import sys
from collections.abc import Callable

from repro.config import ConfigError
from repro.models.loading import check_available
from repro.plans.cluster import Cluster
from repro.plans.plan import Plan
from repro.plans.spec import RunSpec
from repro.runs.store import Store
from repro.slurm import commands
from repro.slurm.submissions import Submissions
from repro.slurm.submit import submit


def check_login_node(
    plan: Plan, store: Store, submissions: Submissions, cluster: Callable[[RunSpec], Cluster]
) -> list[str]:
    """One line for each thing that is missing here; empty where SLURM does not answer, or nothing is.

    SLURM itself judges partition, account, GPUs, memory and time: `sbatch --test-only` reads each script.
    """
    if not commands.answers():
        return []
    lines = []
    for array in submit(plan, store, submissions, cluster=cluster, command=[sys.executable], dry_run=True):
        refusal = commands.refusal(array.script)
        if refusal:
            lines.append(f"SLURM refuses {array.name}: {refusal}")
    if any(cluster(spec).gpus != "0" for spec in plan.runs.values()) and not _torch_has_cuda():
        lines.append(
            "this environment's torch has no CUDA, and the runs ask for GPUs; install a torch with CUDA"
        )
    for model in {spec.model.name: spec.model for spec in plan.runs.values()}.values():
        try:
            check_available(model)
        except ConfigError as error:
            lines.append(str(error))
    return lines


def _torch_has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None
