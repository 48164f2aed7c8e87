"""Weights that are split over processes as a DTensor, as tensor parallelism does by rows or columns.

dW acts element by element, so each process computes the part of dW that belongs to its shard of W0: its rows
of B and D, its columns of A and C. The factors are whole, and equal on every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from . import plain
from .replaced import call_with
from .terms import ALL, Term, Update
from .update import TENSORS, Form, save, saved, taken_apart, updates_of, without_autocast


def sharded_linear(linear: nn.Module, x: Tensor, updates: Sequence[Update]) -> Tensor:
    """The output of `linear`, whose weight is a DTensor, with W0 plus every dW in the weight's place.

    The layer's own forward runs, so inputs and outputs are split, gathered and summed as its style of
    parallelism says.
    """
    weight: Any = linear.weight
    return call_with(linear, "weight", sharded_weight(weight, updates), (x,))


def sharded_weight(weight: DTensor, updates: Sequence[Update]) -> DTensor:
    """W0 (d, k) plus every dW, split as `weight` is, with gradients for W0 and the factors."""
    local = _ShardedWeight.apply(weight.to_local(), _Shard(weight), *taken_apart(updates))
    return DTensor.from_local(
        local,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


@contextmanager
def equal_draws(weight: Tensor) -> Iterator[None]:
    """Random numbers in here are equal on all processes that share a DTensor; else nothing changes."""
    if not isinstance(weight, DTensor):
        yield
        return
    seed = torch.randint(2**62, (), device="cpu").to(weight.device_mesh.device_type)
    for dimension in range(weight.device_mesh.ndim):
        dist.broadcast(seed, group=weight.device_mesh.get_group(dimension), group_src=0)
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        yield


class _Shard:
    """Which rows and columns of a matrix this process has, and the groups over which the matrix is split.

    Raises NotImplementedError for a placement other than a shard or a copy.
    """

    def __init__(self, weight: DTensor) -> None:
        mesh, placements = weight.device_mesh, weight.placements
        for placement in placements:
            if type(placement) not in (Shard, Replicate):
                raise NotImplementedError(
                    f"Dual LoRA: a weight that is split as {placement} is not possible, it must be split by "
                    "rows or by columns (Shard) or be copied (Replicate)."
                )
        shape, offset = compute_local_shape_and_global_offset(weight.shape, mesh, placements)
        self.rows, self.columns = (
            slice(first, first + length) for first, length in zip(offset, shape, strict=True)
        )
        self._groups = [
            mesh.get_group(i) for i, placement in enumerate(placements) if type(placement) is Shard
        ]

    def parts(self, forms: Sequence[Form], tensors: Sequence[Any]) -> list[Term]:
        """The parts of the updates that belong to these rows and columns."""
        return [Term(update).block(self.rows, self.columns) for update in updates_of(forms, tensors)]

    def whole(self, gradient: Tensor, factor: Tensor, by_rows: bool) -> Tensor:
        """A factor's gradient, from this process's rows (or columns) of it: the sum over all shards."""
        total = gradient.new_zeros(factor.shape)
        total[self.rows if by_rows else (ALL, self.columns)] = gradient
        for group in self._groups:
            dist.all_reduce(total, group=group)
        return total


class _ShardedWeight(torch.autograd.Function):
    """This process's part of W0 + dW, in plain torch."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, shard: _Shard, forms: tuple[Form, ...], *tensors: Tensor | None
    ) -> Tensor:
        save(ctx, tensors)
        ctx.shard, ctx.forms = shard, forms
        with without_autocast(weight):
            return plain.updated_weight(weight, shard.parts(forms, tensors), weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        needs_weight, _, _, *needs_tensors = ctx.needs_input_grad
        tensors = saved(ctx)
        found: list[Tensor | None] = []
        with without_autocast(G):
            for i, part in enumerate(ctx.shard.parts(ctx.forms, tensors)):
                first = i * TENSORS
                parts = plain.gradients(G, part) if any(needs_tensors[first : first + TENSORS]) else []
                whole = [
                    ctx.shard.whole(gradient, tensors[first + factor], by_rows=factor % 2 == 1)
                    for factor, gradient in enumerate(parts)
                ]
                found += [*whole, *[None] * (TENSORS - len(whole))]
        return G if needs_weight else None, None, None, *found
