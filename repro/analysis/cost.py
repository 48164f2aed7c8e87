"""What a run's training should cost, by formula, before it is started: operations, memory, time.

Operations (FLOPs, 2 a multiply-add) of one pass, forward and backward, over T tokens of which P are
predicted, in texts of L tokens:

    c T w                of the model's own linear maps with w weights; c is 4, or 6 where they are trained
    c P w                of a language model's head
    12 T L h             of the attention of a block with queries of width h, 4 of it forward; DeBERTa adds
                         its relative positions to L, and computes their keys and queries in each pass
    adapter_cost         of each adapted map, as its method says

Left out are elementwise operations, the optimiser's own, padding, validation and evaluation. A training is
epochs x examples / micro-batch such passes. Without gradient checkpointing, which the runner does not use,
nothing is computed twice.

Memory at the peak of a pass:

    weights       of the model: 2 bytes each in bf16, 4 in fp32 or where they are trained
    trained       4 bytes for each adapter weight, each gradient and each of the optimiser's numbers
    activations   input and output of every linear map for the longest micro-batch, in the training's
                  precision, and the predicted tokens' logits, these also in fp32 with their gradient
                  (small models kept 0.9 to 1.4 times as much; with LoRA's dropout up to 1.8 times)
    adapters      what adapters build besides, a new weight for instance: what all of them keep for the
                  backward pass, and what exists only while the one that needs most is passed

Time: a pass takes its operations at the GPU's peak times an efficiency, but no less than the processor needs
to launch the kernels of its blocks, which is what small models in small batches take.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from repro.analysis.gpu import Gpu
from repro.methods.base import AdapterCost
from repro.models.shapes import LinearShape, base_parameters, linear_shapes, surroundings
from repro.study.spec import RunSpec

# Assumed until a run is measured on the GPU: the share of its peak that a training reaches. In bf16 it is
# about what the HiRA paper's LoRA training reached on an A100, 117 of 312 TFLOP/s as worked out from its
# hours. In fp32 the peak is lower, and there is less to wait for.
EFFICIENCY = {"bf16": 0.35, "fp32": 0.6}

# Assumed: what launching a block's kernels takes in one pass, some 200 forward and backward at 7 us each.
BLOCK_SECONDS = 1.5e-3

_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class TrainingCost:
    """One training.

    Attributes:
        flops: of all its passes.
        passes: forward and backward, over one micro-batch each.
        blocks: of the model.
        weights, trained, activations, adapters: bytes, as the module's text has them.
    """

    flops: float
    passes: int
    blocks: int
    precision: Literal["bf16", "fp32"]
    weights: int
    trained: int
    activations: int
    adapters: int

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return self.weights + self.trained + self.activations + self.adapters

    def computing_seconds(self, gpu: Gpu) -> float:
        """What its operations take at the assumed efficiency."""
        return self.flops / (gpu.peak_tflops[self.precision] * 1e12 * EFFICIENCY[self.precision])

    def assumed_seconds(self, gpu: Gpu) -> float:
        """The same, or what launching them takes, where that is more."""
        return max(self.computing_seconds(gpu), self.passes * self.blocks * BLOCK_SECONDS)


def training_cost(spec: RunSpec, micro_batch_size: int, tokens: int | None = None) -> TrainingCost:
    """Cost of a run's training.

    Args:
        micro_batch_size: examples in one pass.
        tokens: of the whole training, where they are known; otherwise the benchmark's estimate is taken.
    """
    method, training, architecture = spec.method, spec.training, spec.model.architecture
    linears, around = linear_shapes(architecture), surroundings(architecture)
    targeted = linear_shapes(architecture, spec.adapted_modules)
    base = base_parameters(architecture)
    trained = method.trainable_parameters(targeted, base)
    all_weights = trained == base
    # Blocks are alike, so there are few different shapes.
    adapted = Counter((shape.out_features, shape.in_features) for shape in method.adapted(targeted))

    def adapters(tokens: float) -> list[tuple[int, AdapterCost]]:
        """How many adapted maps there are of each shape, and what one costs."""
        return [
            (count, method.adapter_cost(LinearShape("", *shape), tokens)) for shape, count in adapted.items()
        ]

    epoch = spec.benchmark.training_size(training)
    scale = 1.0 if tokens is None else tokens / (training.epochs * epoch.tokens)
    size = min(micro_batch_size, training.batch_size)
    passes = training.epochs * math.ceil(epoch.examples / size) if method.trains else 0
    share = training.epochs * scale / max(passes, 1)
    pass_tokens, length = epoch.tokens * share, epoch.tokens * scale / epoch.examples

    through = [*linears, around.convolution] if around.convolution else linears
    flops = method.flops_per_weight * pass_tokens * sum(linear.parameters for linear in through)
    if around.head:
        flops += method.flops_per_weight * epoch.predicted * share * around.head.parameters
    width = around.blocks * around.attention_width
    flops += 12 * pass_tokens * (length + around.positions) * width
    # Keys and queries of the relative positions, once a pass; frozen, they need no gradient.
    flops += (12 if all_weights else 4) * around.positions * around.attention_width * width
    flops += sum(count * cost.flops for count, cost in adapters(pass_tokens))

    longest = size * epoch.longest
    number = _BYTES[training.precision]
    activations = longest * sum(linear.in_features + linear.out_features for linear in linears)
    # DeBERTa repeats its positions' keys and queries for each text, and keeps scores of keys and positions.
    # Fitted: with 4 and 8 heads and texts of 64 to 256 tokens this is within 6 % of what it kept.
    activations += 2 * size * around.positions * width
    scores = 2 * around.positions + 3 * epoch.longest
    activations += longest * around.blocks * around.scoring_heads * scores
    logits = size * epoch.predicted / epoch.examples * around.head.out_features if around.head else 0
    built = adapters(longest)
    return TrainingCost(
        flops=passes * flops,
        passes=passes,
        blocks=around.blocks,
        precision=training.precision,
        weights=base * (4 if all_weights else number),
        trained=4 * ((0 if all_weights else trained) + trained + method.optimizer_numbers(linears, trained)),
        activations=round(number * activations + (number + 8) * logits) if method.trains else 0,
        adapters=number * sum(count * cost.kept for count, cost in built)
        + 4 * max((cost.transient for _, cost in built), default=0),
    )
