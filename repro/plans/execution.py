"""How a run is executed here. Nothing of it may change a number beyond rounding, so it is not hashed."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from repro.config import Frozen


class Execution(Frozen):
    """Settings of the machine's side of a run.

    Attributes:
        accelerator: Lightning's word for the device; `auto` takes a GPU where there is one.
        devices: that work on one run on each node, each in a process of its own.
        nodes: machines that work on one run. More than one need a shared results folder, and `repro submit`.
        strategy: how several devices share the work. `ddp`: each holds the whole model. `fsdp`: the frozen
            blocks of the model are sharded over the devices and put together one at a time; adapters are
            whole everywhere. Under `fsdp` a trained model is evaluated unmerged, and layers are not looked
            at (`diagnostics`): both would need all weights at once.
        micro_batch_size: examples in one forward pass of training, at most; fewer where the optimiser batch
            gives each device less.
        gradient_checkpointing: whether the backward pass computes each block's activations again in the
            place of keeping them. Takes a third more time and the memory of one block's activations.
        evaluation_tokens: in one forward pass of evaluation, padding included where items are not packed.
        checkpoint_every: optimiser steps between two checkpoints; None keeps none, and an interrupted run
            starts over.
        keep_adapter_mb: a finished run keeps trained weights up to this size (MiB); a fully tuned model is
            larger.
        diagnostics: looks at every adapted layer during training (see `repro.training.diagnostics`); 0 for
            none. Each works out every layer's ΔW once.
        wandb: whether the run is logged to Weights & Biases (offline unless `WANDB_MODE` says otherwise).
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    strategy: Literal["ddp", "fsdp"] = "ddp"
    micro_batch_size: int = Field(default=16, ge=1)
    gradient_checkpointing: bool = False
    evaluation_tokens: int = Field(default=4096, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    keep_adapter_mb: int = Field(default=200, ge=0)
    diagnostics: int = Field(default=3, ge=0)
    wandb: bool = True

    @property
    def processes(self) -> int:
        """That work on one run: one per device of each node."""
        return self.nodes * self.devices

    @property
    def sharded(self) -> bool:
        """Whether no device holds the whole model."""
        return self.strategy == "fsdp" and self.processes > 1

    def examples(self, batch_size: int) -> int:
        """Examples in one pass of one device, for an optimiser batch of so many."""
        return min(self.micro_batch_size, math.ceil(batch_size / self.processes))

    def batch(self, batch_size: int) -> str:
        """How an optimiser batch is made here: `batch 16 = 2 devices x 4 examples x 2 passes`."""
        examples = self.examples(batch_size)
        passes = math.ceil(batch_size / (self.processes * examples))
        some = "" if self.processes * examples * passes == batch_size else "up to "
        counts = [(self.processes, "device"), (examples, "example"), (passes, "pass")]
        words = (f"{n} {word}{'' if n == 1 else 'es' if word == 'pass' else 's'}" for n, word in counts)
        return f"batch {batch_size} = {some}{' x '.join(words)}"
