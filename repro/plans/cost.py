"""Estimates the cost of training a run by formula: FLOPs, memory and time. Its test is in `evaluation_cost`.

FLOPs (2 per multiply-add) of one pass, forward and backward, over T tokens in texts of L tokens, of which P
tokens are predicted:

    c T w                linear layers with w weights; c = 4 frozen, 6 trained
    c P w                language-model head
    12 T L h             attention of a block with query width h, of which 4 T L h forward. DeBERTa adds its
                         relative positions to L, and computes their keys and queries in each pass
    adapter_cost         each adapted layer, by its method

Not counted: elementwise operations, classifier heads, the optimiser, padding, validation and evaluation. The
number of passes is epochs x examples / micro-batch. Gradient checkpointing repeats each block's forward pass,
2 T w and 4 T L h, and a third of the adapters' FLOPs.

Memory of one device at the peak of a pass:

    weights       2 bytes per weight in bf16; 4 in fp32, or if trained; 0.52 in an NF4 model's linear layers.
                  Sharded over n devices: an n-th of the blocks, and two whole ones
    trained       4 bytes per adapter weight, per gradient and per number of optimiser state
    activations   input and output of every linear layer, for the longest micro-batch, in the training
                  precision; logits of predicted tokens, also in fp32 with their gradient. Small models kept
                  0.9 to 1.4 times as much, with LoRA's dropout up to 1.8 times. With gradient checkpointing:
                  each block's input, and the rest of one block
    adapters      tensors that adapters build, such as a new weight: kept ones of all adapters, plus the
                  transient ones of the adapter that needs most; with `reuse_weights`, also W0 + ΔW of all
                  Dual LoRA adapters in the training precision

Time of a pass, the longer of

    GPU    FLOPs over the reached share of its peak, and bytes that elementwise operations read and write over
           the reached share of its bandwidth: a number for each input and output of a linear layer, and
           `AdapterCost.moved`
    CPU    operations that it launches, in each block and each adapter (`AdapterCost.operations`), one after
           the other. This dominates in small batches, and for adapters of many operations
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from repro.methods.base import AdapterCost
from repro.models.shapes import LinearShape, base_parameters, linear_shapes, surroundings
from repro.plans.execution import Execution
from repro.plans.gpu import Gpu
from repro.plans.spec import RunSpec

# Shares of a GPU's peak that its products reach. bf16: on an H200, single products of 4096 x 4096 and
# 11008 x 4096 weights with 4,352 and 16,384 tokens reached 0.51 to 0.77 of 989 TFLOP/s. fp32: assumed, higher
# in whole training than bf16 with its stalls, since the peak is lower.
EFFICIENCY = {"bf16": 0.65, "fp32": 0.6}
# Share of the peak bandwidth that elementwise operations reach.
BANDWIDTH = 0.85

# Seconds of the CPU for one operation, in Python, autograd and the launch. On the machine with that H200,
# 40 us for each operation of an adapter on small inputs, and 55 us in whole steps of LLaMA-7B with Dual LoRA
# and DoRA, which wait for the CPU alone. No constant here depends as much on the machine.
OPERATION_SECONDS = 55e-6
# Operations that launch kernels in a block, forward and backward: 77 (RoBERTa) to 106 (LLaMA). Forward: 34 to
# 63 (DeBERTa).
BLOCK_OPERATIONS, BLOCK_FORWARD_OPERATIONS = 100, 45

# Bytes that a block's elementwise operations read and write, forward and backward, for each number that
# enters or leaves a linear layer. Counted in LLaMA in bf16; others move up to three times as many.
_MOVED = 26

# Bytes per NF4 weight with double quantisation: 4 + 8/64 + 32/(64 x 256) bits (QLoRA, section 3).
FOUR_BITS = (4 + 8 / 64 + 32 / (64 * 256)) / 8

BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class TrainingCost:
    """The cost of training one run.

    Attributes:
        flops, moved: FLOPs, and bytes of elementwise operations, of all passes.
        passes: number of passes, forward and backward, over one micro-batch each.
        operations: operations that one pass launches.
        devices: devices that share the run.
        weights, trained, activations, adapters: bytes on one device, see the module's docstring.
    """

    flops: float
    moved: float
    passes: int
    operations: float
    precision: Literal["bf16", "fp32"]
    devices: int
    weights: int
    trained: int
    activations: int
    adapters: int

    @property
    def memory(self) -> int:
        """Bytes on one device."""
        return self.weights + self.trained + self.activations + self.adapters

    def computing_seconds(self, gpu: Gpu) -> float:
        """Seconds of one GPU for the FLOPs at the assumed efficiency."""
        return product_seconds(self.flops, self.precision, gpu)

    def assumed_seconds(self, gpu: Gpu) -> float:
        """Seconds of one GPU for all passes."""
        working = self.computing_seconds(gpu) + moving_seconds(self.moved, gpu)
        return max(working, self.passes * self.operations * OPERATION_SECONDS)


def product_seconds(flops: float, precision: Literal["bf16", "fp32"], gpu: Gpu) -> float:
    """Seconds that a GPU takes for the FLOPs of matrix products."""
    return flops / (gpu.peak_tflops[precision] * 1e12 * EFFICIENCY[precision])


def moving_seconds(moved: float, gpu: Gpu) -> float:
    """Seconds that a GPU takes to read and write so many bytes."""
    return moved / (gpu.bandwidth_tbs * 1e12 * BANDWIDTH)


def training_cost(spec: RunSpec, execution: Execution, tokens: int | None = None) -> TrainingCost:
    """The cost of training a run.

    Args:
        execution: gives the examples per pass, and whether gradient checkpointing is used.
        tokens: measured tokens of the whole training; None uses the benchmark's estimate.
    """
    training = spec.training
    model = ModelSizes(spec)
    epoch = spec.training_size
    size = execution.examples(training.batch_size)
    again = execution.gradient_checkpointing
    passes = training.epochs * math.ceil(epoch.examples / size) if spec.trains else 0
    scale = 1.0 if tokens is None else tokens / (training.epochs * epoch.tokens)
    share = training.epochs * scale / max(passes, 1)  # one pass's share of an epoch's tokens
    flops = model.pass_flops(
        epoch.tokens * share, epoch.tokens * scale / epoch.examples, epoch.predicted * share, again
    )

    number = BYTES[training.precision]
    logits = model.head_outputs * size * epoch.predicted / epoch.examples
    kept = number * model.kept(size, epoch.longest, again) + (number + 8) * logits
    built = model.adapters(size * epoch.longest)
    return TrainingCost(
        flops=passes * flops,
        moved=passes * model.pass_moved(epoch.tokens * share, again),
        passes=passes,
        operations=model.operations(again),
        precision=training.precision,
        devices=execution.processes,
        weights=model.weights(number, execution.processes if execution.sharded else 1),
        trained=4 * model.trained_numbers(),
        activations=round(kept) if spec.trains else 0,
        # Gradient checkpointing keeps the tensors of one block at a time.
        adapters=number
        * sum(count * cost.kept for count, cost in built)
        // (model.around.blocks if again else 1)
        + number * sum(count * cost.reused for count, cost in built) * bool(execution.reuse_weights)
        + 4 * max((cost.transient for _, cost in built), default=0),
    )


class ModelSizes:
    """The sizes of a run's model and adapters that its costs depend on."""

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

    def weights(self, number: int, shards: int = 1) -> int:
        """Bytes of the model's own weights on one of `shards` devices, at `number` bytes per weight unless
        trained or quantised."""
        if self.all_weights:
            return 4 * self.base
        linears = sum(linear.parameters for linear in self.linears)
        if self.quantization is not None:
            return round(number * (self.base - linears) + FOUR_BITS * linears)
        if shards == 1:
            return number * self.base
        # The next block is gathered while one is computed.
        gathered = 2 * linears // self.around.blocks
        return number * (self.base - linears + linears // shards + gathered)

    def operations(self, again: bool) -> float:
        """Operations that a pass launches."""
        # About half of an adapter's operations are its forward pass.
        adapters = sum(count * cost.operations for count, cost in self.adapters(1)) * (1.5 if again else 1)
        return self.around.blocks * (BLOCK_OPERATIONS + again * BLOCK_FORWARD_OPERATIONS) + adapters

    def pass_moved(self, tokens: float, again: bool) -> float:
        """Bytes that a pass over so many tokens reads and writes in elementwise operations."""
        numbers = tokens * sum(linear.in_features + linear.out_features for linear in self.linears)
        adapters = sum(count * cost.moved for count, cost in self.adapters(tokens))
        return (_MOVED * numbers + adapters) * (4 / 3 if again else 1)

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
        adapters = sum(count * cost.flops for count, cost in self.adapters(tokens)) * (4 / 3 if again else 1)
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
