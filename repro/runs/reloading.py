"""Reads a trained model back from what was saved of it, for the probe "reloaded = in memory"."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from repro.config import ConfigError
from repro.models.sharding import shard
from repro.runs.job import Job
from repro.runs.starting import starting_model
from repro.training import collectives


class Reloading:
    """Reads the saved tensors into the model that is trained, so that no second base model is needed.

    The base is that of a fresh start only if nothing has changed it: its bits are summed before the training,
    and again here.
    """

    def __init__(self, job: Job, model: nn.Module, mesh: DeviceMesh | None) -> None:
        """`model` is the one to train, before its first step."""
        self._job = job
        self._mesh = mesh
        self._base = None if job.spec.method.loads_anew else _bits(model)

    def __call__(self, model: nn.Module) -> nn.Module:
        """The model as it is loaded: the given one, or another where the method cannot load in place.

        Raises:
            ConfigError: what was saved cannot be used, or a frozen weight has changed, in some process.
        """
        anew, loaded, problem = self._base is None, model, None
        with collectives.in_turn() if anew and self._mesh else nullcontext():
            try:
                loaded = self._anew(next(model.parameters()).device) if anew else self._in_place(model)
            except ConfigError as error:
                problem = str(error)
        # A sharded model needs all processes in every pass: all of them go on, or none.
        problem = next(filter(None, collectives.gathered(problem)), None)
        if problem is not None:
            raise ConfigError(problem)
        return loaded

    def _in_place(self, model: nn.Module) -> nn.Module:
        if _bits(model) != self._base:
            raise ConfigError("a frozen weight has changed in training, and is not saved")
        self._job.spec.method.reload(model, self._job.adapter)
        return model

    def _anew(self, device: torch.device) -> nn.Module:
        job, method = self._job, self._job.spec.method
        fresh, _ = starting_model(job.spec, job.store, job.bases)
        task = job.spec.benchmark.model_task
        loaded = method.load(fresh, job.adapter, job.spec.adapted_modules, task)
        if self._mesh:
            shard(loaded, self._mesh)
        return loaded.to(device).eval()


def _bits(model: nn.Module) -> int:
    """The sum of the frozen weights' bits, of this process's shards: equal on every device."""
    return sum(_sum(parameter.detach()) for parameter in model.parameters() if not parameter.requires_grad)


def _sum(tensor: Tensor) -> int:
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    values = own.contiguous().view(-1).view(torch.uint8)
    if values.storage_offset() % 8:  # a part of another tensor
        values = values.clone()
    words = len(values) // 8
    return int(values[: 8 * words].view(torch.int64).sum()) + int(values[8 * words :].sum())
