"""What a run's training should cost, by formula, before it is started: operations, memory, time.

Operations (FLOPs, 2 a multiply-add) of one pass, forward and backward, over T tokens of which P are
predicted, in texts of L tokens:

    c T w                of the model's own linear maps with w weights; c is 4, or 6 where they are trained
    c P w                of a language model's head
    12 T L h             of the attention of a block with queries of width h, 4 of it forward; DeBERTa adds
                         its relative positions to L, and computes their keys and queries in each pass
    adapter_cost         of each adapted map, as its method says

Left out are elementwise operations, a classifier's head, the optimiser's own, padding, validation and
evaluation. A training is epochs x examples / micro-batch such passes. Gradient checkpointing computes each
block forward once more, 2 T w and 4 T L h; what adapters add to that is about 1 % and left out.

Memory at the peak of a pass:

    weights       of the model: 2 bytes each in bf16, 4 in fp32 or where they are trained, and a little more
                  than half a byte in the linear maps of a model in four bits
    trained       4 bytes for each adapter weight, each gradient and each of the optimiser's numbers
    activations   input and output of every linear map for the longest micro-batch, in the training's
                  precision, and the predicted tokens' logits, these also in fp32 with their gradient
                  (small models kept 0.9 to 1.4 times as much; with LoRA's dropout up to 1.8 times); with
                  gradient checkpointing each block's input, and the rest of one block
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
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec

# Assumed until a run is measured on the GPU: the share of its peak that a training reaches. In bf16 it is
# about what the HiRA paper's LoRA training reached on an A100, 117 of 312 TFLOP/s as worked out from its
# hours. In fp32 the peak is lower, and there is less to wait for.
EFFICIENCY = {"bf16": 0.35, "fp32": 0.6}

# Assumed: what launching a block's kernels takes in one pass, some 200 forward and backward at 7 us each.
BLOCK_SECONDS = 1.5e-3

# NF4 and its constants, quantised again: 4 + 8/64 + 32/(64 x 256) bits a weight (QLoRA, section 3).
FOUR_BITS = (4 + 8 / 64 + 32 / (64 * 256)) / 8

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


def training_cost(spec: RunSpec, execution: Execution, tokens: int | None = None) -> TrainingCost:
    """Cost of a run's training.

    Args:
        execution: which says how many examples there are in one pass, and whether activations are kept.
        tokens: of the whole training, where they are known; otherwise the benchmark's estimate is taken.
    """
    method, training = spec.method, spec.training
    model = _Model(spec)
    epoch = spec.benchmark.training_size(training)
    size = execution.examples(training.batch_size)
    again = execution.gradient_checkpointing
    passes = training.epochs * math.ceil(epoch.examples / size) if method.trains else 0
    scale = 1.0 if tokens is None else tokens / (training.epochs * epoch.tokens)
    share = training.epochs * scale / max(passes, 1)  # of the examples in a pass, repeats counted
    flops = model.pass_flops(
        epoch.tokens * share, epoch.tokens * scale / epoch.examples, epoch.predicted * share, again
    )

    number = _BYTES[training.precision]
    logits = model.head_outputs * size * epoch.predicted / epoch.examples
    kept = number * model.kept(size, epoch.longest, again) + (number + 8) * logits
    built = model.adapters(size * epoch.longest)
    return TrainingCost(
        flops=passes * flops,
        passes=passes,
        blocks=model.around.blocks,
        precision=training.precision,
        weights=model.weights(number),
        trained=4 * model.trained_numbers(),
        activations=round(kept) if method.trains else 0,
        # Of the blocks one is kept at a time, where they are computed again.
        adapters=number
        * sum(count * cost.kept for count, cost in built)
        // (model.around.blocks if again else 1)
        + 4 * max((cost.transient for _, cost in built), default=0),
    )


class _Model:
    """A run's model under its method, as far as costs depend on it."""

    def __init__(self, spec: RunSpec) -> None:
        architecture = spec.model.architecture
        targeted = linear_shapes(architecture, spec.adapted_modules)
        self.method = spec.method
        self.quantization = spec.model.quantization
        self.linears = linear_shapes(architecture)
        self.around = surroundings(architecture)
        self.base = base_parameters(architecture)
        self.trained = spec.method.trainable_parameters(targeted, self.base)
        self.all_weights = self.trained == self.base
        # Blocks are alike, so there are few different shapes.
        self._adapted = Counter((s.out_features, s.in_features) for s in spec.method.adapted(targeted))

    @property
    def head_outputs(self) -> int:
        return self.around.head.out_features if self.around.head else 0

    def adapters(self, tokens: float) -> list[tuple[int, AdapterCost]]:
        """How many adapted maps there are of each shape, and what one costs in a pass."""
        cost = self.method.adapter_cost
        return [(count, cost(LinearShape("", *shape), tokens)) for shape, count in self._adapted.items()]

    def weights(self, number: int) -> int:
        """Bytes of the model's own weights, of so many bytes each."""
        if self.all_weights:
            return 4 * self.base
        if self.quantization is None:
            return number * self.base
        linears = sum(linear.parameters for linear in self.linears)
        return round(number * (self.base - linears) + FOUR_BITS * linears)

    def pass_flops(self, tokens: float, length: float, predicted: float, again: bool) -> float:
        """Operations of one pass over so many tokens, in texts of a mean length.

        Args:
            again: whether blocks are computed again in the backward pass.
        """
        around = self.around
        blocks = tokens * sum(linear.parameters for linear in self.linears)
        outside = predicted * around.head.parameters if around.head else 0.0
        if around.convolution:
            outside += tokens * around.convolution.parameters
        attention = (
            (16 if again else 12)
            * tokens
            * (length + around.positions)
            * around.blocks
            * around.attention_width
        )
        # Keys and queries of the relative positions, once a pass; frozen, they need no gradient.
        each = 12 if self.all_weights else 4
        positions = each * around.positions * around.blocks * around.attention_width**2
        adapters = sum(count * cost.flops for count, cost in self.adapters(tokens))
        each = self.method.flops_per_weight
        return (each + 2 * again) * blocks + each * outside + attention + positions + adapters

    def kept(self, texts: int, length: int, again: bool = False) -> int:
        """Numbers that a pass over so many texts of one length keeps for the backward pass, logits aside."""
        around, tokens = self.around, texts * length
        numbers = tokens * sum(linear.in_features + linear.out_features for linear in self.linears)
        # DeBERTa repeats its positions' keys and queries for each text, and keeps scores of keys and
        # positions. Fitted: with 4 and 8 heads and 64 to 256 tokens this is within 6 % of what it kept.
        numbers += 2 * texts * around.positions * around.blocks * around.attention_width
        numbers += tokens * around.blocks * around.scoring_heads * (2 * around.positions + 3 * length)
        if not again:
            return numbers
        # A block's input is as wide as its first linear map's.
        return numbers // around.blocks + tokens * around.blocks * self.linears[0].in_features

    def trained_numbers(self) -> int:
        """Weights besides the model's own, gradients, and what the optimiser keeps."""
        added = 0 if self.all_weights else self.trained
        return added + self.trained + self.method.optimizer_numbers(self.linears, self.trained)
