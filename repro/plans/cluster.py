"""The SLURM resources of a task: a profile's `cluster` section, overridden by flags of `repro submit`."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from repro.config import Frozen

_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}", re.ASCII)
_MEMORY = re.compile(r"\d+[KMGT]?", re.ASCII)
_GPUS = re.compile(r"([\w.-]+:)?\d+", re.ASCII)


def _time(value: Any) -> Any:
    if value is None or (isinstance(value, str) and _TIME.fullmatch(value)):
        return value
    # Without quotes YAML reads 24:00:00 as the number 86400.
    raise ValueError(
        f"not a time limit (got {value!r}; allowed, in quotes: minutes, hours:minutes:seconds, "
        "days-hours:minutes:seconds)"
    )


def _memory(value: Any) -> Any:
    if value is None or (isinstance(value, str) and _MEMORY.fullmatch(value)):
        return value
    raise ValueError(
        f"not a memory size (got {value!r}; allowed: a number and K, M, G or T, for instance 64G)"
    )


def _gpus(value: Any) -> Any:
    if _GPUS.fullmatch(str(value)):
        return str(value)
    raise ValueError(
        f"not a number of GPUs (got {value!r}; allowed: 0, 1, ..., or with a type, for instance a100:1)"
    )


def one_line(value: str) -> str:
    """The text, which a batch script can hold in one line.

    Raises:
        ValueError: it is blank, or has a newline or another character that cannot be printed.
    """
    if not value.strip() or not value.isprintable():
        raise ValueError(
            f"not possible in a batch script (got {value!r}; allowed: printable characters, and at least one "
            "that is no space)"
        )
    return value


def _option(value: str) -> str:
    """An option whose quotes are closed and which begins with a hyphen."""
    one_line(value)
    try:
        whole = shlex.split(value)[0].startswith("-")
    except ValueError:  # an open quote
        whole = False
    if not whole:
        raise ValueError(
            f"not an option of sbatch (got {value!r}; allowed: one that begins with a hyphen, with every "
            "quote closed, for instance --qos=long)"
        )
    return value


class Cluster(Frozen):
    """The SLURM resources of one task, which executes one run, or several one after the other.

    Attributes:
        partition, account: SLURM's names; None uses the cluster's default.
        time: time limit, after which a task is requeued; None uses the partition's default.
        nodes: nodes per task, the same number as the `execution.nodes` of its run.
        gpus: GPUs per task on each node, for instance 1 or `a100:1`.
        cpus: CPUs per task on each node, also torch's number of threads.
        memory: memory per task on each node, for instance 64G; None uses the cluster's default.
        concurrent: tasks of one array that execute at the same time; None sets no limit.
        runs_per_task: runs of the same model that one task executes one after the other at most, so that it
            loads the model once. More than 1 only where a run has one process.
        notice: seconds before the time limit at which a run is told to stop. A training step and a checkpoint
            must fit. SLURM checks once a minute, so the signal may come up to a minute earlier.
        restarts: how often a task is requeued; after that a person has to restart it.
        options: further sbatch options, for instance `--constraint=a100` or `--qos=long`. Words are separated
            and quoted as in a shell, which replaces nothing in them.
    """

    partition: Annotated[str, AfterValidator(one_line)] | None = None
    account: Annotated[str, AfterValidator(one_line)] | None = None
    time: Annotated[str | None, BeforeValidator(_time)] = None
    nodes: int = Field(default=1, ge=1)
    gpus: Annotated[str, BeforeValidator(_gpus)] = "0"
    cpus: int = Field(default=1, ge=1)
    memory: Annotated[str | None, BeforeValidator(_memory)] = None
    concurrent: int | None = Field(default=None, ge=1)
    runs_per_task: int = Field(default=1, ge=1)
    notice: int = Field(default=120, ge=1)
    restarts: int = Field(default=100, ge=0)
    options: tuple[Annotated[str, AfterValidator(_option)], ...] = ()
