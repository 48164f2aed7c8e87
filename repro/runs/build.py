"""The first part of a run: from its spec to a model with an adapter, its data and its Lightning module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import PreTrainedTokenizerBase

from repro.methods.base import AttachReport
from repro.models.gradient_checkpointing import checkpoint_blocks
from repro.models.loading import loaded_revision
from repro.models.mapped import maps_weights
from repro.models.shapes import base_parameters, linear_shapes
from repro.models.sharding import shard
from repro.plans.spec import RunSpec
from repro.runs.bases import DTYPES
from repro.runs.job import Job, on_gpu
from repro.runs.reloading import Reloading
from repro.runs.starting import continue_adapter, starting_model
from repro.training import collectives
from repro.training.context import RunContext
from repro.training.dropout import checkpoint_contexts
from repro.training.finetuning import FineTuning
from repro.training.finetuning_data import FineTuningData
from repro.training.graphs import CudaRecorder


@dataclass(frozen=True)
class Built:
    """What is trained and tested.

    Attributes:
        adapter: what the method built, checked against its formulas.
        revision: of the base model's checkpoint.
        steps: optimiser steps of the training; 0 of a method without one.
        mesh: of the devices over which the base model is sharded, if it is.
        reload: reads the trained model back from what was saved of it; None where nothing is.
        merge: merges a trained model; None where merging would not be exact, or is not wanted.
    """

    module: FineTuning
    data: FineTuningData
    adapter: AttachReport
    revision: str
    steps: int
    mesh: DeviceMesh | None
    reload: Reloading | None
    merge: Callable[[nn.Module], nn.Module] | None


def context_of(
    spec: RunSpec,
    tokenizer: PreTrainedTokenizerBase,
    micro_batch_size: int,
    evaluation_tokens: int,
    *,
    regular: bool = False,
) -> RunContext:
    """What a benchmark family needs to know of a run."""
    return RunContext(
        tokenizer, spec.method, spec.training, spec.seed, micro_batch_size, evaluation_tokens, regular
    )


def build(job: Job) -> Built:
    """Load the base model, attach and verify the adapter, read the data. The seed must be set before."""
    spec, method, benchmark = job.spec, job.spec.method, job.spec.benchmark
    targets, task = spec.adapted_modules, benchmark.model_task
    mesh = _mesh(job)
    # In turn, unless weights are mapped: all at once would hold as many whole models in main memory.
    with collectives.in_turn() if mesh and not _mapped(spec) else nullcontext():
        base, tokenizer = starting_model(spec, job.store, job.bases)
        revision = loaded_revision(spec.model)
        execution = job.execution
        context = context_of(
            spec, tokenizer, job.examples, execution.evaluation_tokens, regular=execution.cuda_graphs
        )
        data = benchmark.data(context)
        if method.calibration_examples:
            method.calibrate(base, data.calibration_inputs(method.calibration_examples), targets, task)
        model = method.attach(base, targets, task)
        architecture = spec.model.architecture
        shapes = linear_shapes(architecture, targets)
        adapter = method.verify(model, targets, shapes, base_parameters(architecture))
        continue_adapter(spec, model, job.store, job.bases)
        if job.execution.gradient_checkpointing:
            checkpoint_blocks(model, checkpoint_contexts)
        if mesh:
            shard(model, mesh)
    steps = data.steps if spec.trains else 0
    module = benchmark.module(model, context, steps)
    module.retries = mesh is None
    module.note = job.note
    module.recorder = CudaRecorder if job.execution.cuda_graphs else None
    module.reuses_weights = bool(job.execution.reuse_weights)
    # Merging would round a quantised weight once more; a sharded weight is nowhere whole.
    mergeable = method.trains and method.mergeable and mesh is None and spec.model.quantization is None
    merges = mergeable and job.execution.score == "merged"
    reload = Reloading(job, model, mesh) if spec.trains else None
    return Built(module, data, adapter, revision, steps, mesh, reload, method.merge if merges else None)


def _mapped(spec: RunSpec) -> bool:
    """Whether every process finds the weights in files that it can map, and nothing is merged into them."""
    merged = spec.init_from is not None and spec.init_from.reading == "merged"
    return not merged and all(collectives.gathered(maps_weights(spec.model, DTYPES[spec.training.precision])))


def _mesh(job: Job) -> DeviceMesh | None:
    if not job.execution.sharded:
        return None
    return init_device_mesh("cuda" if on_gpu(job.execution) else "cpu", (job.execution.processes,))
