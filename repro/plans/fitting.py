"""The number of examples in one pass of a device, where a profile does not name it: as many as fit."""

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
    """The execution with a number for `micro_batch_size`: its own, or the largest that fits.

    Args:
        memory: bytes of one GPU; None on a CPU.
    """
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
