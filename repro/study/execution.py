"""How a run is executed here. Nothing of it may change a number beyond rounding, so it is not hashed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repro.config import Frozen


class Execution(Frozen):
    """Settings of the machine's side of a run.

    Attributes:
        accelerator: Lightning's word for the device; `auto` takes a GPU where there is one.
        micro_batch_size: examples in one forward pass of training.
        evaluation_tokens: padded tokens in one forward pass of evaluation.
        checkpoint_every: optimiser steps between two checkpoints; None keeps none, and an interrupted run
            starts over.
        keep_adapter_mb: a finished run keeps trained weights up to this size (MiB); a fully tuned model is
            larger.
        diagnostics: looks at every adapted layer during training (see `repro.benchmarks.diagnostics`); 0 for
            none. Each works out every layer's ΔW once.
        wandb: whether the run is logged to Weights & Biases (offline unless `WANDB_MODE` says otherwise).
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    micro_batch_size: int = Field(default=16, ge=1)
    evaluation_tokens: int = Field(default=4096, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    keep_adapter_mb: int = Field(default=200, ge=0)
    diagnostics: int = Field(default=3, ge=0)
    wandb: bool = True
