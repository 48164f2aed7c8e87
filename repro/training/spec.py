"""How a model is trained in any benchmark: the settings, the schedule and the order of the data."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from repro.config import Frozen, added
from repro.methods.base import OptimizerSettings


def _interval(value: Any) -> Any:
    if value in (None, "epoch") or (isinstance(value, int) and value >= 1):
        return value
    raise ValueError(f"not an interval (got {value!r}; allowed: a number of steps from 1 on, epoch, null)")


_Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingSpec(Frozen):
    """The hyperparameters of a training.

    `batch_size` is the effective one: examples per optimiser step, over all devices and micro-batches.
    """

    epochs: int = Field(ge=1, le=10**4)
    batch_size: int = Field(ge=1, le=10**6)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    # Warm-up as a share of all steps; replaces `warmup_steps`.
    warmup_ratio: float | None = added(None, ge=0, lt=1)
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    # transformers' Trainer clips at 1.0 by default, so every code base that the paper builds on did.
    gradient_clip: float | None = Field(default=1.0, gt=0)
    # Loss on the prompt or not has decided the winner in two public comparisons, so there is no default.
    loss_on: Literal["completion", "all"]
    append_eos: bool
    # Share of the target's probability that is spread evenly over the vocabulary (torch's label smoothing).
    label_smoothing: float = added(0.0, ge=0, lt=1)
    # fp32; or bf16: base weights in bf16, trained weights in fp32, under bf16 autocast.
    precision: Literal["fp32", "bf16"] = "fp32"
    # Optimiser steps between two validations, or `epoch`; None never validates.
    validate_every: Annotated[int | Literal["epoch"] | None, BeforeValidator(_interval)] = None
    # Which weights are tested. `best_validation_score` uses the task's own metric, if the family has one.
    selection: Literal["last", "best_validation_loss", "best_validation_score"] = "last"

    @model_validator(mode="after")
    def _settings_agree(self) -> TrainingSpec:
        if self.selection != "last" and self.validate_every is None:
            raise ValueError(
                f"selection {self.selection} needs validate_every (got none); set it to a number of steps, "
                "or to epoch"
            )
        if self.warmup_ratio is not None and self.warmup_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and warmup_ratio {self.warmup_ratio} are both given; "
                "set one of them, the other to 0 or null"
            )
        return self

    @property
    def optimizer_settings(self) -> OptimizerSettings:
        return OptimizerSettings(
            learning_rate=self.learning_rate, weight_decay=self.weight_decay, betas=self.betas, eps=self.eps
        )

    def steps(self, examples: int) -> int:
        """Optimiser steps for `examples` training examples; a last, smaller batch counts."""
        return self.epochs * math.ceil(examples / self.batch_size)

    def rate_factor(self, step: int, steps: int) -> float:
        """Learning rate at `step` as a share of its peak: linear warm-up, then constant or linear to zero."""
        warmup = self.warmup_steps if self.warmup_ratio is None else math.ceil(self.warmup_ratio * steps)
        if step < warmup:
            return step / warmup
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / max(1, steps - warmup))

    def validation_interval(self, examples: int) -> int | None:
        """Optimiser steps between two validations, for `examples` training examples."""
        return (
            math.ceil(examples / self.batch_size) if self.validate_every == "epoch" else self.validate_every
        )


class BatchSchedule:
    """The batches of the whole training: `epochs` shuffles of the examples, cut into optimiser batches.

    A batch is a list of micro-batches, each a list of example indices. The examples of a batch are sorted by
    length before it is cut into micro-batches, which saves padding. The order depends on `seed` only
    (Python's Mersenne Twister, stable across versions), so a resumed training sets `start` to the steps done.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, micro_batch_size: int, epochs: int, seed: int
    ) -> None:
        if not lengths:
            raise ValueError("there is nothing to train on: the training set is empty")
        self.start = 0
        self._lengths = lengths
        self._micro_batch_size = micro_batch_size
        self._batches: list[list[int]] = []
        for epoch in range(epochs):
            order = list(range(len(lengths)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            self._batches += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        """Batches of the whole training, finished ones included: Lightning counts from the beginning."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[list[int]]]:
        for batch in self._batches[self.start :]:
            longest_first = sorted(batch, key=lambda index: self._lengths[index], reverse=True)
            size = self._micro_batch_size
            yield [longest_first[i : i + size] for i in range(0, len(longest_first), size)]
