"""Several runs in one start of the processes. A module of its own, since they have to import it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import distributed as dist

from repro.plans.execution import Execution
from repro.runs.link import Link
from repro.runs.runner import _in_rank

Job = tuple[str, Path, Execution]
"""A spec as JSON, the folder of its store, and how it is executed."""


def work_off(jobs: Sequence[Job], link: Link) -> None:
    _collectives()
    for spec, folder, execution in jobs:
        scratch = [tempfile.mkdtemp()]
        dist.broadcast_object_list(scratch)
        _in_rank(spec, folder, execution, "test", Path(scratch[0]), link)


def _collectives() -> None:
    """A process with a gradient that the others lack, and one that none has."""
    import torch
    from torch import nn

    from repro.training import collectives

    rank, size = collectives.rank(), collectives.world_size()
    both, one, none = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    both.grad = torch.full((2, 3), 1.0 + rank)
    if rank == 1:
        one.grad = torch.full((2, 3), 5.0)
    collectives.sum_gradients([both, one, none])
    assert torch.equal(both.grad, torch.full((2, 3), size * (size + 1) / 2))
    assert one.grad is not None and torch.equal(one.grad, torch.full((2, 3), 5.0))
    assert none.grad is None
    cpu = torch.device("cpu")
    assert collectives.total(0.5 + rank, cpu) == size**2 / 2
    assert collectives.any_of(rank == 1, cpu)
    assert not collectives.any_of(False, cpu)
    assert collectives.gathered("abcd"[rank]) == list("abcd"[:size])
