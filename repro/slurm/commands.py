"""Wrappers of SLURM's commands squeue, sbatch, scancel and scontrol."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.config import ConfigError

# SLURM's default for MaxArraySize.
DEFAULT_LONGEST_ARRAY = 1001


@dataclass(frozen=True)
class Task:
    """A queued or running task of an array.

    Attributes:
        name: name of its array.
        job: id of its array.
        state: SLURM's state, for instance PENDING.
        reason: SLURM's reason for the state.
    """

    name: str
    job: str
    index: int
    state: str
    reason: str

    @property
    def id(self) -> str:
        return f"{self.job}_{self.index}"


def answers() -> bool:
    """Whether SLURM is installed and its controller responds."""
    return (
        shutil.which("scontrol") is not None
        and not subprocess.run(
            ["scontrol", "ping"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
    )


def queue() -> list[Task]:
    """This user's queued and running array tasks.

    Raises:
        ConfigError: SLURM does not answer.
    """
    # Without --states squeue lists tasks that hold or wait for resources. --array: one line per task.
    lines = _slurm("squeue", "--noheader", "--array", "--me", "--format=%j|%F|%K|%T|%r").splitlines()
    fields = [line.strip().split("|") for line in lines]
    return [
        Task(name, job, int(index), state, reason)
        for name, job, index, state, reason in (parts for parts in fields if len(parts) == 5)
        if index.isdigit()
    ]


def submit(script: Path, after: str | None) -> str:
    """Submit a script and return the job id.

    Args:
        after: id of an array; each task waits for the task of it with the same index, and is cancelled if
            that one fails.

    Raises:
        ConfigError: SLURM rejects it.
    """
    waiting = [f"--dependency=aftercorr:{after}", "--kill-on-invalid-dep=yes"] if after else []
    # --parsable prints the id, with several clusters followed by a semicolon and the cluster's name.
    return _slurm("sbatch", "--parsable", *waiting, str(script)).strip().split(";")[0]


def refusal(script: str) -> str:
    """Why SLURM would not take a script, in a line; empty if it would. Nothing is submitted."""
    tested = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    return "" if tested.returncode == 0 else " ".join(tested.stderr.split())[:300]


def cancel(tasks: Sequence[Task]) -> None:
    """Cancel queued or running tasks.

    Raises:
        ConfigError: SLURM does not answer.
    """
    _slurm("scancel", *(task.id for task in tasks))


def longest_array() -> int:
    """The maximum number of tasks in an array on this cluster.

    Raises:
        ConfigError: SLURM does not answer.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config"), flags=re.MULTILINE)
    return int(found.group(1)) if found else DEFAULT_LONGEST_ARRAY


def restarts() -> int:
    """How often SLURM has restarted this task."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def name_of_this_array() -> str:
    """The name of the array that this process belongs to; empty outside of SLURM."""
    return os.environ.get("SLURM_JOB_NAME", "")


def requeue_this_task() -> bool:
    """Requeue the array task that this process belongs to.

    Returns:
        False if this process is not an array task, its task was cancelled, or SLURM's commands are not here,
        as in a container.

    Raises:
        ConfigError: SLURM does not answer.
    """
    if "SLURM_ARRAY_JOB_ID" not in os.environ or shutil.which("scontrol") is None:
        return False
    task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    # Before a time limit or a preemption the task is still RUNNING. A cancelled task gets the same signal,
    # but is COMPLETING by then, and must not be requeued.
    if _slurm("squeue", "--noheader", f"--jobs={task}", "--format=%T").strip() != "RUNNING":
        return False
    _slurm("scontrol", "requeue", task)
    return True


def _slurm(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ConfigError(
            f"{command[0]} is not on this machine; submit from a login node of a SLURM cluster, "
            "use --dry-run to see the script, or `repro run` to execute runs here"
        ) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise ConfigError(f"{command[0]} failed: {said[-1]}") from error
    return done.stdout
