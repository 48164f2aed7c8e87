"""What a run asks of a cluster: a profile's `cluster:` section, and the flags of `repro submit` over it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from repro.config import Frozen

_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]?")
_GPUS = re.compile(r"(\w+:)?\d+")


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
        f"not a size of memory (got {value!r}; allowed: a number and K, M, G or T, for instance 64G)"
    )


def _gpus(value: Any) -> Any:
    if _GPUS.fullmatch(str(value)):
        return str(value)
    raise ValueError(
        f"no number of GPUs (got {value!r}; allowed: 0, 1, ..., or with a type, for instance a100:1)"
    )


class Cluster(Frozen):
    """What one run asks of SLURM, and how many go on at once.

    Attributes:
        partition, account: as SLURM knows them; None leaves them to the cluster.
        time: a run's limit before it is requeued; None leaves it to the partition.
        nodes: of a run, as many as its `execution.nodes`.
        gpus: of a run on each node, for instance 1 or `a100:1`.
        cpus: of a run on each node, and torch's threads.
        memory: of a run on each node, for instance 64G; None leaves it to the cluster.
        concurrent: runs of an array that go on at once; None sets no limit.
        notice: seconds before its limit at which a run is told to stop; a step of training and a checkpoint
            must fit in. SLURM looks once a minute, so it may come so much earlier.
        restarts: a run that is told to stop more often is left to a person.
        options: further options of sbatch, for instance `--constraint=a100` or `--qos=long`.
    """

    partition: str | None = None
    account: str | None = None
    time: Annotated[str | None, BeforeValidator(_time)] = None
    nodes: int = Field(default=1, ge=1)
    gpus: Annotated[str, BeforeValidator(_gpus)] = "0"
    cpus: int = Field(default=1, ge=1)
    memory: Annotated[str | None, BeforeValidator(_memory)] = None
    concurrent: int | None = Field(default=None, ge=1)
    notice: int = Field(default=120, ge=1)
    restarts: int = Field(default=100, ge=0)
    options: tuple[Annotated[str, Field(pattern=r"^-\S.*$")], ...] = ()
