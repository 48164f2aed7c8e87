"""Communication between the processes of one run; in a single process every function is trivial.

Gradients are summed here and not by DistributedDataParallel, which reduces inside `backward`: every process
would need equally many backward passes that use all parameters, and an optimiser batch with fewer
micro-batches than processes would hang. Here each process computes its share, and one sum follows. Little
time is lost: adapters have few gradients, and those of several passes are accumulated before anything is
sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

# Gradient entries per all-reduce. A buffer of 2^26 in fp32 takes 256 MiB in addition to the gradients.
_BUCKET = 2**26


def rank() -> int:
    """This process's number, from 0 on. Only process 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process gets here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def in_turn() -> Iterator[None]:
    """One process after the other, for objects that would not fit into memory several times."""
    for _ in range(rank()):
        barrier()
    yield
    for _ in range(world_size() - rank()):
        barrier()


def total(value: float, device: torch.device) -> float:
    """The sum over all processes, in float64; every process gets the same result."""
    return _reduced(value, device, dist.ReduceOp.SUM)


def largest(value: float, device: torch.device) -> float:
    """The maximum over all processes."""
    return _reduced(value, device, dist.ReduceOp.MAX)


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    return bool(largest(float(flag), device))


def gathered(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; a missing gradient counts as zero.

    A parameter without a gradient in any process keeps none, so that the optimiser skips it as it does in a
    single process.
    """
    if not dist.is_initialized() or not parameters:
        return
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8).to(parameters[0].device)
    dist.all_reduce(there, dist.ReduceOp.MAX)
    bucket: list[Tensor] = []
    for parameter, needed in zip(parameters, there.tolist(), strict=True):
        if not needed:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        size = sum(other.numel() for other in bucket)
        if bucket and (size + gradient.numel() > _BUCKET or gradient.dtype != bucket[0].dtype):
            _sum_in_place(bucket)
            bucket = []
        bucket.append(gradient)
    if bucket:
        _sum_in_place(bucket)


def _sum_in_place(tensors: Sequence[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def _reduced(value: float, device: torch.device, operation: dist.ReduceOp.RedOpType) -> float:
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, operation)
    return float(tensor)
