"""What an execution leaves to the machine and the run: examples in a pass, reused weights and CUDA graphs."""

from __future__ import annotations

import math

from repro.plans.cost import training_cost
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec

# Share of a GPU's memory that a run may be estimated to need. Steps of LLaMA-7B under four methods took up to
# 12 % more than estimated; the rest is for CUDA itself. Passes that still do not fit are halved as they run.
_SHARE = 0.85

# Without a GPU memory is seldom what is short, and larger passes are not faster.
_ON_CPU = 16


def fitted(spec: RunSpec, execution: Execution, memory: float | None) -> Execution:
    """The execution with everything decided: `micro_batch_size`, `reuse_weights` and `cuda_graphs`.

    Args:
        memory: bytes of one GPU; None on a CPU.
    """
    sized = _sized(spec, execution, memory)
    reuses = _reuses(spec, sized, memory)
    sized = sized.model_copy(update={"reuse_weights": reuses})
    return sized.model_copy(update={"cuda_graphs": _graphs(spec, sized, memory)})


def _sized(spec: RunSpec, execution: Execution, memory: float | None) -> Execution:
    """With the profile's number of examples in a pass, or the largest that fits."""
    if execution.micro_batch_size is not None:
        return execution
    batch = spec.training.batch_size
    share = math.ceil(batch / execution.processes)
    # Passes of about equal size: 32, 16, 11, 8, ...
    sizes = dict.fromkeys(math.ceil(share / passes) for passes in range(1, share + 1))
    tried = (execution.model_copy(update={"micro_batch_size": size}) for size in sizes)
    if memory is None:
        return next(one for one in tried if one.examples(batch) <= _ON_CPU)
    for one in tried:
        if one.micro_batch_size == 1 or training_cost(spec, one).memory <= _SHARE * memory:
            return one
    raise AssertionError("the last size is 1")


def _reuses(spec: RunSpec, execution: Execution, memory: float | None) -> bool:
    if execution.reuse_weights is not None:
        return execution.reuse_weights
    again = execution.passes(spec.training.batch_size) > 1 or execution.gradient_checkpointing
    if memory is None or not again or execution.sharded:
        return False
    without, reusing = (
        training_cost(spec, execution.model_copy(update={"reuse_weights": reuses})).memory
        for reuses in (False, True)
    )
    return without < reusing <= _SHARE * memory


def _graphs(spec: RunSpec, execution: Execution, memory: float | None) -> bool:
    """Whether passes are recorded and replayed: all that can differ between two of one shape are tensors.

    Not those of several processes, which take turns; nor with gradient checkpointing, which reads the random
    numbers' state; nor with dropout, whose masks are drawn in Python; nor of a quantised base; nor of an
    encoder, whose attention asks for the mask's values; nor where weights are reused, which each step builds
    anew in its first pass. A new shape's first pass is eager while the graphs keep their memory, so both have
    to fit.
    """
    if memory is None or not execution.cuda_graphs or not spec.trains:
        return False
    dropout = spec.model.drops_out or getattr(spec.method, "dropout", 0.0) > 0
    if (
        execution.processes > 1
        or execution.gradient_checkpointing
        or execution.reuse_weights
        or dropout
        or spec.model.quantization is not None
        or not spec.model.causal
    ):
        return False
    cost = training_cost(spec, execution)
    return cost.memory + cost.activations + cost.adapters <= _SHARE * memory
