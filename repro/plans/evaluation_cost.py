"""Estimates the cost of a run's test pass by formula: memory and time.

Items are tested in batches of `evaluation_tokens` tokens. A batch's prompts are computed at once; then, where
texts are generated, every beam gets one token in each step, up to the largest number of new tokens. Beside
it the likelihoods of gold answers are computed, in passes of up to `evaluation_tokens` tokens.

Memory of one device:

    weights       as in training, at its precision where the adapter is merged into them; otherwise the
                  adapter in fp32 as well. The base is held once
    activations   input and output of the linear layers of one block, for a batch
    logits        of the predicted positions, also in fp32
    cache         keys and values of all blocks, for every beam: prompts and new tokens

Time: products and operations as in training (`cost`), forward alone. A step of generation also waits for the
memory: it reads all weights and the whole cache. That answers may end early is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from repro.plans.cost import (
    BLOCK_FORWARD_OPERATIONS,
    BYTES,
    OPERATION_SECONDS,
    ModelSizes,
    moving_seconds,
    product_seconds,
)
from repro.plans.execution import Execution
from repro.plans.gpu import Gpu
from repro.plans.spec import RunSpec


@dataclass(frozen=True)
class EvaluationCost:
    """The cost of testing one run.

    Attributes:
        batches: number of batches, over all devices.
        devices: devices that share them.
        passes: forward passes over texts in a batch.
        flops: of these passes.
        steps, step_flops, step_bytes: generated tokens of a beam; FLOPs of all beams, and bytes read, in one
            of these steps.
        operations: operations that one forward pass launches.
        weights, activations, cache: bytes on one device; `activations` includes logits.
    """

    batches: int
    devices: int
    precision: Literal["bf16", "fp32"]
    passes: int
    flops: float
    steps: int
    step_flops: float
    step_bytes: float
    operations: float
    weights: int
    activations: int
    cache: int

    @property
    def memory(self) -> int:
        """Bytes on one device."""
        return self.weights + self.activations + self.cache

    def assumed_seconds(self, gpu: Gpu) -> float:
        """Seconds of one GPU for all batches."""
        launch = self.operations * OPERATION_SECONDS
        texts = max(product_seconds(self.flops, self.precision, gpu), self.passes * launch)
        step = max(
            product_seconds(self.step_flops, self.precision, gpu),
            moving_seconds(self.step_bytes, gpu),
            launch,
        )
        return self.batches * (texts + self.steps * step)


def evaluation_cost(spec: RunSpec, execution: Execution) -> EvaluationCost:
    """The cost of a run's test pass, without probes."""
    model, method, size = ModelSizes(spec), spec.method, spec.evaluation_size
    around, number = model.around, BYTES[spec.training.precision]
    items = max(1, min(size.items, int(execution.evaluation_tokens / size.counted)))
    tokens, beams = items * size.tokens, items * size.beams
    scored = items * size.scored
    scoring = math.ceil(scored / execution.evaluation_tokens)
    at_once = items / max(1, scoring)  # whose likelihoods are computed
    merged = method.mergeable and not execution.sharded and spec.model.quantization is None

    linears = sum(linear.parameters for linear in model.linears)
    head = around.head.parameters if around.head else 0
    # In a language model's block the second linear map makes the keys, and values are as wide.
    keys = 2 * around.blocks * model.linears[1].out_features if size.new_tokens else 0
    cache = number * keys * (tokens * size.beams + beams * size.new_tokens)
    weights = model.weights(number, execution.processes if execution.sharded else 1)
    added = 0 if model.all_weights or merged else 4 * model.trained
    inside = sum(linear.in_features + linear.out_features for linear in model.linears) / around.blocks
    logits = (
        (number + 4) * model.head_outputs * max(beams if size.new_tokens else 0, at_once * size.predicted)
    )
    layers = sum(count * cost.operations for count, cost in model.adapters(1)) / 2
    return EvaluationCost(
        batches=math.ceil(size.items / items),
        devices=execution.processes,
        precision=spec.training.precision,
        passes=1 + scoring,
        flops=2 * (tokens + scored) * linears
        + 4 * (tokens * size.tokens + scored * size.scored) * around.blocks * around.attention_width
        + 2 * items * size.predicted * head,
        steps=size.new_tokens,
        step_flops=2 * beams * (linears + head),
        step_bytes=model.weights(number) + cache,
        operations=around.blocks * BLOCK_FORWARD_OPERATIONS + (0 if merged else layers),
        weights=weights + added,
        activations=round(number * max(tokens, at_once * size.scored) * inside + logits),
        cache=round(cache),
    )
