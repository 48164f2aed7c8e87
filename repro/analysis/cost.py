"""Estimates the cost of training a run by formula: FLOPs, memory and time.

FLOPs (2 per multiply-add) of one pass, forward and backward, over T tokens in texts of L tokens, of which P
tokens are predicted:

    c T w                linear layers with w weights; c = 4 frozen, 6 trained
    c P w                language-model head
    12 T L h             attention of a block with query width h, of which 4 T L h forward. DeBERTa adds its
                         relative positions to L, and computes their keys and queries in each pass
    adapter_cost         each adapted layer, by its method

Not counted: elementwise operations, classifier heads, the optimiser, padding, validation and evaluation. The
number of passes is epochs x examples / micro-batch. Gradient checkpointing repeats each block's forward pass,
2 T w and 4 T L h; the adapters' part of that is about 1 % and not counted.

Memory at the peak of a pass:

    weights       2 bytes per weight in bf16; 4 in fp32, or if trained; 0.52 in an NF4 model's linear layers
    trained       4 bytes per adapter weight, per gradient and per number of optimiser state
    activations   input and output of every linear layer, for the longest micro-batch, in the training
                  precision; logits of predicted tokens, also in fp32 with their gradient. Small models kept
                  0.9 to 1.4 times as much, with LoRA's dropout up to 1.8 times. With gradient checkpointing:
                  each block's input, and the rest of one block
    adapters      tensors that adapters build, such as a new weight: kept ones of all adapters, plus the
                  transient ones of the adapter that needs most

Time: FLOPs over the GPU's peak times an efficiency, but at least the time to launch the blocks' kernels,
which dominates for small models in small batches.
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

# Share of a GPU's peak that training reaches, assumed until a run is measured on that GPU. bf16: about what
# the HiRA paper's LoRA training reached on an A100, 117 of 312 TFLOP/s computed from its hours. fp32: higher,
# since its peak is lower and memory stalls it less.
EFFICIENCY = {"bf16": 0.35, "fp32": 0.6}

# Assumed seconds to launch a block's kernels in one pass: about 200, forward and backward, at 7 us each.
BLOCK_SECONDS = 1.5e-3

# Bytes per NF4 weight with double quantisation: 4 + 8/64 + 32/(64 x 256) bits (QLoRA, section 3).
FOUR_BITS = (4 + 8 / 64 + 32 / (64 * 256)) / 8

_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class TrainingCost:
    """The cost of training one run.

    Attributes:
        flops: FLOPs of all passes.
        passes: number of passes, forward and backward, over one micro-batch each.
        blocks: number of the model's blocks.
        weights, trained, activations, adapters: bytes, see the module's docstring.
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
        """Total bytes."""
        return self.weights + self.trained + self.activations + self.adapters

    def computing_seconds(self, gpu: Gpu) -> float:
        """Seconds for the FLOPs at the assumed efficiency."""
        return self.flops / (gpu.peak_tflops[self.precision] * 1e12 * EFFICIENCY[self.precision])

    def assumed_seconds(self, gpu: Gpu) -> float:
        """`computing_seconds`, or the time to launch the kernels if that is longer."""
        return max(self.computing_seconds(gpu), self.passes * self.blocks * BLOCK_SECONDS)


def training_cost(spec: RunSpec, execution: Execution, tokens: int | None = None) -> TrainingCost:
    """The cost of training a run.

    Args:
        execution: gives the examples per pass, and whether gradient checkpointing is used.
        tokens: measured tokens of the whole training; None uses the benchmark's estimate.
    """
    method, training = spec.method, spec.training
    model = _Model(spec)
    epoch = spec.training_size
    size = execution.examples(training.batch_size)
    again = execution.gradient_checkpointing
    passes = training.epochs * math.ceil(epoch.examples / size) if method.trains else 0
    scale = 1.0 if tokens is None else tokens / (training.epochs * epoch.tokens)
    share = training.epochs * scale / max(passes, 1)  # one pass's share of an epoch's tokens
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
        # Gradient checkpointing keeps the tensors of one block at a time.
        adapters=number
        * sum(count * cost.kept for count, cost in built)
        // (model.around.blocks if again else 1)
        + 4 * max((cost.transient for _, cost in built), default=0),
    )


class _Model:
    """The sizes of a run's model and adapters that its cost depends on."""

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
        """For each shape of adapted layer, the number of such layers and the cost of one in a pass."""
        cost = self.method.adapter_cost
        return [(count, cost(LinearShape("", *shape), tokens)) for shape, count in self._adapted.items()]

    def weights(self, number: int) -> int:
        """Bytes of the model's own weights, at `number` bytes per weight unless trained or quantised."""
        if self.all_weights:
            return 4 * self.base
        if self.quantization is None:
            return number * self.base
        linears = sum(linear.parameters for linear in self.linears)
        return round(number * (self.base - linears) + FOUR_BITS * linears)

    def pass_flops(self, tokens: float, length: float, predicted: float, again: bool) -> float:
        """FLOPs of one pass.

        Args:
            tokens, predicted: number of tokens, and of predicted tokens, in the pass.
            length: mean tokens per text.
            again: whether gradient checkpointing recomputes the blocks.
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
        # Keys and queries of the relative positions, once per pass; if frozen they need no gradient.
        each = 12 if self.all_weights else 4
        positions = each * around.positions * around.blocks * around.attention_width**2
        adapters = sum(count * cost.flops for count, cost in self.adapters(tokens))
        each = self.method.flops_per_weight
        return (each + 2 * again) * blocks + each * outside + attention + positions + adapters

    def kept(self, texts: int, length: int, again: bool = False) -> int:
        """Numbers kept for the backward pass over `texts` texts of `length` tokens, without logits."""
        around, tokens = self.around, texts * length
        numbers = tokens * sum(linear.in_features + linear.out_features for linear in self.linears)
        # DeBERTa repeats the positions' keys and queries for each text, and keeps attention scores of keys
        # and positions. Fitted: within 6 % of what was kept with 4 and 8 heads and 64 to 256 tokens.
        numbers += 2 * texts * around.positions * around.blocks * around.attention_width
        numbers += tokens * around.blocks * around.scoring_heads * (2 * around.positions + 3 * length)
        if not again:
            return numbers
        # A block's input is as wide as its first linear map's.
        return numbers // around.blocks + tokens * around.blocks * self.linears[0].in_features

    def trained_numbers(self) -> int:
        """Number of adapter weights, gradients and numbers of optimiser state."""
        added = 0 if self.all_weights else self.trained
        return added + self.trained + self.method.optimizer_numbers(self.linears, self.trained)
