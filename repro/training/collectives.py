"""What the processes of one run tell each other. A run of a single process talks to itself.

The sums are ours and not DistributedDataParallel's. That one reduces inside of `backward`, so every process
needs as many backward passes as the others and parameters that all take part, and an optimiser batch of
fewer micro-batches than processes would hang. Here each process works through its share and one sum follows.
Nothing is lost by it: adapters have few gradients, and several passes are added up before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

# Numbers sent at once. A buffer of 2^26 in fp32 takes 256 MiB beside the gradients.
_BUCKET = 2**26


def rank() -> int:
    """This process's number, from 0 on. Number 0 writes what is written."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work on the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Go on when every process has come so far."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def in_turn() -> Iterator[None]:
    """One process after the other, for what would not fit into memory several times."""
    for _ in range(rank()):
        barrier()
    yield
    for _ in range(world_size() - rank()):
        barrier()


def total(value: float, device: torch.device) -> float:
    """The sum of every process's number, in float64, the same in all of them."""
    return _reduced(value, device, dist.ReduceOp.SUM)


def largest(value: float, device: torch.device) -> float:
    """The largest of every process's number."""
    return _reduced(value, device, dist.ReduceOp.MAX)


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    return bool(largest(float(flag), device))


def gathered(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the sum of every process's gradients in the place of each gradient; a missing one counts as zero.

    A parameter without a gradient in any process keeps none, so that the optimiser leaves it alone as it
    does in a single process.
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
