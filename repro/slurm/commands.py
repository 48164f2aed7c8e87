"""SLURM's own commands: squeue, sbatch, scancel, scontrol."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.config import ConfigError

# SLURM's own default.
DEFAULT_LONGEST_ARRAY = 1001


@dataclass(frozen=True)
class Task:
    """A task of an array that waits or runs.

    Attributes:
        name: of its array.
        state: SLURM's word, for instance PENDING.
        reason: why it is in that state, as far as SLURM says.
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
    """Whether there is a SLURM, and its controller is awake."""
    return (
        shutil.which("scontrol") is not None
        and not subprocess.run(
            ["scontrol", "ping"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
    )


def queue() -> list[Task]:
    """This user's array tasks that wait or run.

    Raises:
        ConfigError: SLURM does not answer.
    """
    # Without -t: the states in which a task still holds or wants resources. -r: one line a task.
    lines = _slurm("squeue", "--noheader", "--array", "--me", "--format=%j|%F|%K|%T|%r").splitlines()
    fields = [line.strip().split("|") for line in lines]
    return [
        Task(name, job, int(index), state, reason)
        for name, job, index, state, reason in (parts for parts in fields if len(parts) == 5)
        if index.isdigit()
    ]


def submit(script: Path, after: str | None) -> str:
    """Hand a script to SLURM and return the id of its job.

    Args:
        after: id of the array whose tasks each of these tasks waits for; one whose like fails is cancelled.

    Raises:
        ConfigError: SLURM does not take it.
    """
    waiting = [f"--dependency=aftercorr:{after}", "--kill-on-invalid-dep=yes"] if after else []
    # --parsable: the id, and behind a semicolon the cluster's name where there are several.
    return _slurm("sbatch", "--parsable", *waiting, str(script)).strip().split(";")[0]


def cancel(tasks: Sequence[Task]) -> None:
    """End tasks, whether they wait or run.

    Raises:
        ConfigError: SLURM does not answer.
    """
    _slurm("scancel", *(task.id for task in tasks))


def longest_array() -> int:
    """How many tasks the cluster allows in an array.

    Raises:
        ConfigError: SLURM does not answer.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config"), flags=re.MULTILINE)
    return int(found.group(1)) if found else DEFAULT_LONGEST_ARRAY


def restarts() -> int:
    """How often SLURM has started this task before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def requeue_this_task() -> bool:
    """Put the task that this process is back into the queue, alone.

    Returns:
        False if this process is none, or was ended for good.

    Raises:
        ConfigError: SLURM does not answer.
    """
    if "SLURM_ARRAY_JOB_ID" not in os.environ:
        return False
    task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    # A task that is told in advance, of its limit or of a preemption, still runs. One that was cancelled gets
    # the same signal, but is COMPLETING by then, and must not come back.
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
