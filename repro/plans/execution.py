"""How a run is executed on this machine. These settings change results by rounding at most: not hashed."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from repro.config import ConfigError, Frozen
from repro.plans.spec import RunSpec


class Execution(Frozen):
    """Settings of a run that depend on the machine.

    Attributes:
        accelerator: Lightning's accelerator; `auto` uses a GPU if there is one.
        devices: devices per run on each node, one process each.
        nodes: machines that share one run. More than one need a shared results folder, and `repro submit`.
        strategy: `ddp`: every device holds the whole model. `fsdp`: the frozen blocks are sharded and
            gathered one at a time, adapters are replicated. `fsdp` evaluates unmerged and skips
            `diagnostics`, since merging and `diagnostics` need all weights at once.
        micro_batch_size: maximum number of training examples in one forward pass of a device; None takes as
            many as fit its memory (`repro.plans.fitting`).
        gradient_checkpointing: recompute each block's activations in the backward pass. Takes a third more
            time, and memory for the activations of one block only.
        cuda_graphs: train by CUDA graphs on a GPU where they apply (`repro.plans.fitting`), so that a small
            model does not wait for Python's launches. Rows are then padded to few widths. No effect on a CPU.
        reuse_weights: true builds W0 + ΔW of Dual LoRA once for all passes of an optimiser step, and keeps it
            for that long. None does so on a GPU where a step has several passes, or gradient checkpointing
            repeats parts of one, and the memory suffices. Other methods have nothing to reuse.
        evaluation_tokens: tokens in one evaluation forward pass, padding included unless items are packed.
        checkpoint_minutes: time between checkpoints, each of which replaces the one before; 0 keeps one after
            every step. None keeps no checkpoint, and an interrupted run starts over.
        score: `merged`: adapters are merged into the base before the test, in the base's precision, where the
            method can be merged and the base is neither sharded nor quantised. `unmerged`: none is.
        keep_weights_mb: where a method trains the whole model, its weights are kept with the result up to
            this size in MiB. Adapters are always kept.
        diagnostics: number of times that every adapted layer is inspected during training (see
            `repro.training.diagnostics`), each of which computes ΔW of every layer once; 0 for none.
        wandb: log to Weights & Biases (offline unless `WANDB_MODE` says otherwise).
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1, le=1024)
    nodes: int = Field(default=1, ge=1, le=1024)
    strategy: Literal["ddp", "fsdp"] = "ddp"
    micro_batch_size: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False
    cuda_graphs: bool = True
    reuse_weights: bool | None = None
    evaluation_tokens: int = Field(default=4096, ge=1)
    checkpoint_minutes: float | None = Field(default=10, ge=0)
    score: Literal["merged", "unmerged"] = "merged"
    keep_weights_mb: int = Field(default=200, ge=0)
    diagnostics: int = Field(default=3, ge=0)
    wandb: bool = True

    @model_validator(mode="before")
    @classmethod
    def _no_steps_between_checkpoints(cls, content: Any) -> Any:
        if isinstance(content, dict) and "checkpoint_every" in content:
            raise ValueError(
                f"checkpoint_every: {content['checkpoint_every']} counts steps, and checkpoints are kept by "
                "time now; write checkpoint_minutes: 10, or null for none"
            )
        return content

    @property
    def processes(self) -> int:
        """Processes that share one run: one per device of each node."""
        return self.nodes * self.devices

    def passes(self, batch_size: int) -> int:
        """Passes of one device in an optimiser step."""
        return math.ceil(batch_size / (self.processes * self.examples(batch_size)))

    @property
    def sharded(self) -> bool:
        """Whether no device holds the whole model."""
        return self.strategy == "fsdp" and self.processes > 1

    def examples(self, batch_size: int) -> int:
        """Examples in one forward pass of one device, for an optimiser batch of `batch_size` examples.

        Its whole share, if `micro_batch_size` is not known yet.
        """
        share = math.ceil(batch_size / self.processes)
        return share if self.micro_batch_size is None else min(self.micro_batch_size, share)

    def batch(self, batch_size: int) -> str:
        """How an optimiser batch is split: `batch 16 = 2 devices x 4 examples x 2 passes`."""
        if self.micro_batch_size is None:
            return f"batch {batch_size} = passes of as many examples as fit the memory"
        examples = self.examples(batch_size)
        passes = self.passes(batch_size)
        some = "" if self.processes * examples * passes == batch_size else "up to "
        counts = [(self.processes, "device"), (examples, "example"), (passes, "pass")]
        words = (f"{n} {word}{'' if n == 1 else 'es' if word == 'pass' else 's'}" for n, word in counts)
        return f"batch {batch_size} = {some}{' x '.join(words)}"


def check_execution(spec: RunSpec, execution: Execution) -> None:
    """Refuse an execution that does not fit the run.

    Raises:
        ConfigError: `fsdp` is asked to shard weights that train, that are quantised or that are to be reused;
            or gradient checkpointing to recompute blocks of a method that does not allow it.
    """
    if execution.gradient_checkpointing and not spec.method.recomputes:
        raise ConfigError(
            f"{spec.slug}: execution.gradient_checkpointing does not work with {spec.method.name}; set it to "
            "false, and a smaller micro_batch_size if the memory does not suffice"
        )
    if execution.reuse_weights and execution.sharded:
        raise ConfigError(
            f"{spec.slug}: execution.reuse_weights does not work with strategy fsdp, which gathers weights "
            "anew in each pass; set it to null or false"
        )
    if not execution.sharded:
        return
    if spec.trains_base:
        raise ConfigError(
            f"{spec.slug}: execution.strategy fsdp shards frozen weights, and {spec.method.name} trains all "
            "of them; set strategy: ddp, and gradient_checkpointing: true if the memory does not suffice"
        )
    if spec.model.quantization is not None:
        raise ConfigError(
            f"{spec.slug}: execution.strategy fsdp cannot shard a model of quantization "
            f"{spec.model.quantization}; set strategy: ddp, or leave the quantization out"
        )
