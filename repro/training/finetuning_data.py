"""The data of a training: examples in a fixed order, validation examples, and test items in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repro.training import collectives
from repro.training.context import RunContext
from repro.training.spec import BatchSchedule


class FineTuningData(L.LightningDataModule):
    """Training examples in the order of a `BatchSchedule`, validation examples, and test items in batches.

    A resumed training continues after the last finished step, by the trainer's count of optimiser steps.
    """

    def __init__(
        self,
        *,
        train: Sequence[Any],
        validation: Sequence[Any],
        test_batches: Sequence[Sequence[Any]],
        fingerprints: dict[str, str],
        length: Callable[[Any], int],
        collate: Callable[[Sequence[Any]], tuple[Any, int]],
        context: RunContext,
        collate_regular: Callable[[Sequence[Any]], tuple[Any, int]] | None = None,
        warnings: Sequence[str] = (),
        truncated: dict[str, float] | None = None,
    ) -> None:
        """Arrange a run's data.

        Args:
            test_batches: test items, in batches that `FineTuning.predict` takes.
            fingerprints: by part, a hash of its records, for the result.
            length: an example's length in tokens.
            collate: turns examples into a micro-batch and the number of its targets. If rows are no examples,
                its `examples`, (rows, width), say which example of the micro-batch a token belongs to.
            collate_regular: the same in few different shapes, where the family has such and the context asks.
            warnings: what a reader of the result should know of the data.
            truncated: the share of training texts that were cut; see `repro.training.truncation`.

        Raises:
            ValueError: the best weights are to be selected, but no validation would take place.
        """
        super().__init__()
        training = context.training
        self.test_batches = test_batches
        self.fingerprints = fingerprints
        self.warnings = tuple(warnings)
        self.truncated = truncated
        self.training_tokens = training.epochs * sum(length(example) for example in train)
        self._micro_batch_size = context.micro_batch_size
        self._collate = collate
        self._train = _Batches(train, (collate_regular if context.regular else None) or collate)
        self._validation = _Batches(validation, collate)
        self._schedule = (
            BatchSchedule(
                [length(example) for example in train],
                batch_size=training.batch_size,
                micro_batch_size=context.micro_batch_size,
                epochs=training.epochs,
                seed=context.seed,
            )
            if train
            else None
        )
        self.validate_every = every = training.validation_interval(len(train)) if train else None
        if train and training.selection != "last" and not (validation and every and every <= self.steps):
            raise ValueError(
                f"selection {training.selection} never sees a validation: {len(validation)} validation "
                f"examples, validate_every {every}, {self.steps} steps; hold out more or validate more often"
            )

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training; none where nothing is trained."""
        return len(self._schedule) if self._schedule else 0

    def first_batches(self, count: int) -> list[list[Any]]:
        """The examples of the first optimiser batches, in the order in which they are collated."""
        assert self._schedule is not None
        return [
            [self._train.examples[index] for micro in batch for index in micro]
            for batch in islice(self._schedule, count)
        ]

    def calibration_inputs(self, count: int) -> list[dict[str, Tensor]]:
        """Inputs of the model for the first `count` training examples, in batches of one."""
        if count > len(self._train):
            raise ValueError(
                f"{count} calibration examples are wanted, but there are {len(self._train)} to train on; "
                "ask for fewer"
            )
        batches = (self._collate([self._train.examples[index]])[0] for index in range(count))
        return [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._train, sampler=self._schedule, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        size = self._micro_batch_size
        batches = [
            [list(range(i, min(i + size, len(self._validation))))]
            for i in range(0, len(self._validation), size)
        ]
        return DataLoader(self._validation, sampler=batches, batch_size=None)

    def test_dataloader(self) -> DataLoader:
        count, ranks = len(self.test_batches), collectives.world_size()
        # This process's share. All shares have the same size: the last batch is repeated to fill them.
        own = [
            min(index, count - 1) for index in range(collectives.rank(), -(-count // ranks) * ranks, ranks)
        ]
        return DataLoader(self.test_batches, sampler=own, batch_size=None, collate_fn=list)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None  # Lightning asks only while it trains
        return {"steps_done": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._schedule:
            self._schedule.start = state_dict["steps_done"]


class _Batches(Dataset):
    """Examples, read a batch (a list of micro-batches of indices) at a time."""

    def __init__(self, examples: Sequence[Any], collate: Callable[[Sequence[Any]], tuple[Any, int]]) -> None:
        self.examples = examples
        self._collate = collate

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, batch: list[list[int]]) -> dict[str, Any]:
        collated = [self._collate([self.examples[index] for index in micro]) for micro in batch]
        micro_batches = [micro_batch for micro_batch, _ in collated]
        firsts = accumulate((len(micro) for micro in batch[:-1]), initial=0)
        return {
            "micro_batches": micro_batches,
            # Each row's or token's example, numbered within the batch.
            "examples": [
                first + micro_batch.pop("examples", torch.arange(len(micro)))
                for first, micro, micro_batch in zip(firsts, batch, micro_batches, strict=True)
            ],
            "targets": sum(targets for _, targets in collated),
        }
