"""The training that every benchmark family shares, as a Lightning module and its data.

A family adds its loss and its predictions (see `repro.benchmarks.commonsense.module`). Optimisation is
manual, so that one Lightning batch is one optimiser batch: its loss is divided by the whole batch's targets,
whatever the micro-batches.

Several processes (see `repro.runs.processes`) know the same schedule. Each takes its share of every
optimiser batch's micro-batches, and gradients are summed. Test batches are shared out in the same way and
predictions gathered. Validation is not: every process goes through all of it, since it is small beside the
training, its score needs all predictions at once, and no process can then take another decision than the
rest.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from repro.methods.base import Method
from repro.training import collectives
from repro.training.out_of_memory import cut, cut_rows, free_memory, halved
from repro.training.spec import BatchSchedule, TrainingSpec

Prediction = dict[str, Any]
"""One item's outcome as stored: `task`, `id`, `gold`, and what the model gave. Scoring needs nothing else."""


class FineTuning(L.LightningModule):
    """Trains whatever the method left trainable, then predicts.

    `losses` holds every optimiser step's mean training loss, `validation_losses` pairs (step, mean loss),
    `validation_scores` pairs (step, score in percent) where the family scores its validation.
    `kernel` is what computed the adapters in training, where the method has a choice.

    A pass that runs out of memory is repeated in halves, and so is every later one: `oom_backoff` counts how
    often that was needed in training, `test_halvings` in evaluation. `retries` is False where the processes
    need each other within a pass, so that none can repeat it alone.
    """

    def __init__(
        self, model: nn.Module, method: Method, training: TrainingSpec, *, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        # Checkpoints leave the frozen weights out, so Lightning must not ask for them when it reads one.
        self.strict_loading = False
        self.model = model
        self.method = method
        self.training_spec = training
        self.steps = steps
        self.seed = seed
        self.losses: list[float] = []
        self.validation_losses: list[tuple[int, float]] = []
        self.validation_scores: list[tuple[int, float]] = []
        self.predictions: list[Prediction] = []
        self.kernel: Literal["triton", "c", "torch"] | None = None
        self.oom_backoff = 0
        self.test_halvings = 0
        self.retries = True
        self._test_batches: list[list[Prediction]] = []
        self._validation_sum = 0.0
        self._validation_targets = 0

    @abstractmethod
    def loss_sum(self, micro_batch: Any) -> Tensor:
        """Sum of the losses of a micro-batch's targets (a scalar tensor)."""

    def validation_loss_sum(self, micro_batch: Any) -> Tensor:
        """The same of a validation micro-batch; a family that scores its validation keeps what it saw."""
        return self.loss_sum(micro_batch)

    def validation_score(self) -> float | None:
        """Score in percent of the validation that just ended; None in a family without one."""
        return None

    @abstractmethod
    def predict(self, items: Sequence[Any]) -> list[Prediction]:
        """Predictions for test items, in their order."""

    @abstractmethod
    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """How far two predictions of the same items are apart, in the unit of `probe_tolerance`."""

    @property
    @abstractmethod
    def probe_tolerance(self) -> float:
        """The `distance` up to which two ways of computing the same thing count as equal."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.method.optimizer(self.model, self.training_spec.optimizer_settings)
        factor = self.training_spec.rate_factor
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        # Lightning keeps the mode that it finds, and a loaded model is in evaluation mode, its dropout off.
        self.train()
        self.kernel = self.method.kernel(self.model)  # as it is: on the device that trains it
        # A checkpoint is written before its step's validation, which Lightning then takes for done.
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning's, set by `fit`
        every, done = data.validate_every, len(self.losses)
        if every and done and done % every == 0 and done not in dict(self.validation_losses):
            validation = self.trainer.fit_loop.epoch_loop.val_loop
            validation.restarting = False
            self.trainer.validating = True
            validation.run()
            self.trainer.training = True

    def training_step(self, batch: dict[str, Any], batch_index: int) -> None:
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        total = self._accumulated(batch)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the training loss is {total} at step {len(self.losses)} of {self.steps}; lower the "
                f"learning rate (now {self.training_spec.learning_rate}) or the method's scale"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        self.losses.append(total)
        self.log("train/loss", total)
        self.log("train/learning_rate", schedule.get_last_lr()[0])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Behind the callbacks of the same name, which see the gradient as it is.
        if self.training_spec.gradient_clip is not None:
            trained = [p for p in self.model.parameters() if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, self.training_spec.gradient_clip)

    def _accumulated(self, batch: dict[str, Any]) -> float:
        """The batch's mean loss, its gradient left in the parameters, over all processes."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        while True:
            loss, error = self._own_passes(batch)
            if not collectives.any_of(error is not None, self.device):
                collectives.sum_gradients(trained)
                return collectives.total(loss, self.device)
            # Nothing of the step has been applied. What is left of it is thrown away and it begins again.
            for parameter in trained:
                parameter.grad = None
            free_memory()
            largest = max(len(next(iter(micro.values()))) for micro in batch["micro_batches"])
            if halved(largest, self.oom_backoff) == 1:
                raise torch.OutOfMemoryError(
                    f"out of memory in a training pass over a single row{f': {error}' if error else ''}; set "
                    "execution.gradient_checkpointing, or execution.strategy fsdp with more devices"
                )
            self.oom_backoff += 1

    def _own_passes(self, batch: dict[str, Any]) -> tuple[float, str | None]:
        """This process's share of a batch's loss, and the error's words if the memory did not suffice."""
        micro_batches, rank, ranks = batch["micro_batches"], collectives.rank(), collectives.world_size()
        total = 0.0
        try:
            # As many passes in every process: a sharded model is put together by all of them. A process
            # with nothing left to do goes through the last micro-batch for nothing while the others work.
            for index in range(rank, -(-len(micro_batches) // ranks) * ranks, ranks):
                weight = 1.0 if index < len(micro_batches) else 0.0
                # Randomness (dropout) is a function of seed, step and micro-batch. So a resumed training
                # repeats it exactly, and it is the same on however many devices. The factors keep the steps
                # of neighbouring seeds, and the micro-batches of a step, apart: the first exceeds the
                # longest training, 31,932 steps, the second what comes of 1,000 seeds.
                torch.manual_seed(1_000_003 * self.seed + len(self.losses) + 1_000_000_007 * index)
                for piece in cut_rows(micro_batches[min(index, len(micro_batches) - 1)], self.oom_backoff):
                    loss = self.loss_sum(piece) / batch["targets"] * weight
                    self.manual_backward(loss)
                    total += float(loss.detach())
        except torch.OutOfMemoryError as error:
            if not self.retries:
                raise torch.OutOfMemoryError(
                    f"out of memory in a pass of a sharded model, which one process cannot repeat alone; "
                    f"lower execution.micro_batch_size ({error})"
                ) from error
            return total, " ".join(str(error).split())  # not the error, which holds on to the pass's tensors
        return total, None

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        self._validation_sum += sum(
            float(self.validation_loss_sum(micro)) for micro in batch["micro_batches"]
        )
        self._validation_targets += batch["targets"]

    def on_validation_epoch_end(self) -> None:
        mean = self._validation_sum / self._validation_targets
        self._validation_sum, self._validation_targets = 0.0, 0
        self.validation_losses.append((len(self.losses), mean))
        self.log("validation/loss", mean)
        score = self.validation_score()
        if score is not None:
            self.validation_scores.append((len(self.losses), score))
            self.log("validation/score", score)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # Test items are no tensors yet; `predict` puts them where the model is.
        if isinstance(batch, list):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def test_step(self, items: Sequence[Any], batch_index: int) -> None:
        self._test_batches.append(self.predicted(items))

    def on_test_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        ranks = collectives.gathered(self._test_batches)
        self._test_batches = []
        # Batch i was process i mod n's; what a process got beyond the last one is a repetition.
        for index in range(len(data.test_batches)):
            self.predictions += ranks[index % len(ranks)][index // len(ranks)]

    def predicted(self, items: Sequence[Any]) -> list[Prediction]:
        """Predictions for a batch, in smaller ones where the memory does not suffice for it."""
        while True:
            try:
                return [p for piece in cut(items, self.test_halvings) for p in self.predict(piece)]
            except torch.OutOfMemoryError:
                if not self.retries or halved(len(items), self.test_halvings) == 1:
                    raise
            free_memory()
            self.test_halvings += 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = trained_state(self)
        checkpoint["losses"] = self.losses
        checkpoint["validation_losses"] = self.validation_losses
        checkpoint["validation_scores"] = self.validation_scores
        checkpoint["oom_backoff"] = self.oom_backoff

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        absent = sorted(trained_state(self).keys() - checkpoint["state_dict"].keys())
        if absent:
            raise ValueError(f"the checkpoint lacks {len(absent)} trained tensors, the first is {absent[0]}")
        self.losses = checkpoint["losses"]
        self.validation_losses = checkpoint["validation_losses"]
        self.validation_scores = checkpoint["validation_scores"]
        self.oom_backoff = checkpoint.get("oom_backoff", 0)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters and buffers. Frozen weights come with the base model."""
    # Every name of a tied weight: the state names them all.
    parameters = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in parameters if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


class FineTuningData(L.LightningDataModule):
    """Training examples in the order of a `BatchSchedule`, validation examples, and test items in batches.

    A resumed training goes on behind the last finished step, by the trainer's count of optimiser steps.
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
        training: TrainingSpec,
        micro_batch_size: int,
        seed: int,
    ) -> None:
        """`collate` turns examples into a micro-batch and its count of targets; `length` is in tokens.

        `fingerprints` holds a hash of the records behind each part, for the result.

        Raises:
            ValueError: the best weights are to be selected, but not a single validation would take place.
        """
        super().__init__()
        self.test_batches = test_batches
        self.fingerprints = fingerprints
        self.training_tokens = training.epochs * sum(length(example) for example in train)
        self._micro_batch_size = micro_batch_size
        self._train = _Batches(train, collate)
        self._validation = _Batches(validation, collate)
        self._schedule = (
            BatchSchedule(
                [length(example) for example in train],
                batch_size=training.batch_size,
                micro_batch_size=micro_batch_size,
                epochs=training.epochs,
                seed=seed,
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

    def first_batch(self) -> list[Any]:
        """The examples of the first optimiser batch, in the order in which they are collated."""
        assert self._schedule is not None
        return [self._train.examples[index] for micro in next(iter(self._schedule)) for index in micro]

    def calibration_inputs(self, count: int) -> list[dict[str, Tensor]]:
        """Inputs of the model for the first `count` training examples, in batches of one."""
        if count > len(self._train):
            raise ValueError(
                f"{count} calibration examples are wanted, but there are {len(self._train)} to train on; "
                "ask for fewer"
            )
        batches = (self._train[[[index]]]["micro_batches"][0] for index in range(count))
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
        # This process's share. Every process gets as many: what is missing at the end repeats the last.
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
        return {
            "micro_batches": [micro_batch for micro_batch, _ in collated],
            "targets": sum(targets for _, targets in collated),
        }
