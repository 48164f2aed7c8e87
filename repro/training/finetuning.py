"""The training that every benchmark family shares, as a Lightning module.

A family adds its loss and its predictions (see `repro.benchmarks.commonsense.module`). Optimisation is
manual, so that one Lightning batch is one optimiser batch: its loss is divided by the whole batch's targets,
however it is cut into micro-batches.

Several processes (see `repro.runs.processes`) follow the same schedule. Each computes its share of a batch's
micro-batches, and gradients are summed. Test batches are distributed in the same way and predictions
gathered. Validation is not distributed: it is small, its score needs all predictions at once, and every
process must make the same decision from it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from repro.training import collectives
from repro.training.context import RunContext
from repro.training.dropout import ExampleDropout, has_dropout
from repro.training.graphs import GraphedPasses, Recorder
from repro.training.out_of_memory import (
    cut_rows,
    free_memory,
    in_batches_that_fit,
    one_more_halving,
    sharded_error,
)

Prediction = dict[str, Any]
"""One item's outcome as stored: `task`, `id`, `gold`, and what the model gave. Scoring needs nothing else."""


class FineTuning(L.LightningModule):
    """Trains the parameters that the method left trainable, then predicts.

    Attributes:
        losses: mean training loss of every optimiser step.
        validation_losses: pairs (step, mean loss).
        validation_scores: pairs (step, score in percent), if the family scores its validation.
        kernel: what computed the adapters in training, if the method has a choice.
        oom_backoff, evaluation_backoff: how often passes of training and of evaluation were halved because
            memory ran out; every later pass stays as small.
        retries: False if processes need each other within a pass, so that none can repeat it alone.
        recorder: makes what records passes as graphs (`repro.training.graphs`); None trains eagerly. Graphs
            need micro-batches of few shapes and a model without dropout, whose masks differ in each pass.
        graph_problem: why graphs were given up, in a line; None if they were not.
        note: told of it at once.
        reuses_weights: whether passes of one optimiser step share what `Method.reused_weights` keeps.
    """

    def __init__(self, model: nn.Module, context: RunContext, steps: int) -> None:
        """`steps` counts the optimiser steps of the whole training."""
        super().__init__()
        self.automatic_optimization = False
        # Checkpoints leave out the frozen weights, so Lightning must not expect them when it reads one.
        self.strict_loading = False
        self.model = model
        self.tokenizer = context.tokenizer
        self.method = context.method
        self.training_spec = context.training
        self.seed = context.seed
        self.steps = steps
        self.losses: list[float] = []
        self.validation_losses: list[tuple[int, float]] = []
        self.validation_scores: list[tuple[int, float]] = []
        self.predictions: list[Prediction] = []
        self.kernel: Literal["triton", "c", "torch"] | None = None
        self.oom_backoff = 0
        self.evaluation_backoff = 0
        self.retries = True
        self.recorder: Callable[[], Recorder] | None = None
        self.graph_problem: str | None = None
        self.note: Callable[[str], None] = lambda line: None
        self.reuses_weights = False
        self._graphs: GraphedPasses | None = None
        # Of the parameters that the method trains: looking for them takes longer than a small model's pass.
        self._trained: list[nn.Parameter] = []
        self._has_dropout = has_dropout(model)
        self._test_batches: list[list[Prediction]] = []
        self._validation_sum = 0.0
        self._validation_targets = 0

    @abstractmethod
    def loss_sum(self, micro_batch: Any) -> Tensor:
        """Sum of the losses over a micro-batch's targets, a scalar tensor."""

    def validation_loss_sum(self, micro_batch: Any) -> Tensor:
        """The same for a validation micro-batch; a family with a validation score keeps its outputs."""
        return self.loss_sum(micro_batch)

    def validation_score(self) -> float | None:
        """Score in percent of the validation that just ended; None in a family without one."""
        return None

    @abstractmethod
    def predict(self, items: Sequence[Any]) -> list[Prediction]:
        """Predictions for test items, in their order."""

    @abstractmethod
    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """How far two lists of predictions for the same items are apart, in the unit of `probe_tolerance`."""

    @property
    @abstractmethod
    def probe_tolerance(self) -> float:
        """The largest `distance` at which two ways of computing the same predictions count as equal."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.method.optimizer(self.model, self.training_spec.optimizer_settings)
        factor = self.training_spec.rate_factor
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        # Lightning keeps the mode that it finds, and a loaded model is in evaluation mode, its dropout off.
        self.train()
        self.kernel = self.method.kernel(self.model)  # asked here because it depends on the device
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # A checkpoint is written before its step's validation, which Lightning skips when it resumes.
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
        losses = self._accumulated(batch)
        optimizer.step()
        schedule.step()
        if self._graphs is None and self.recorder is not None:
            # After the first step of this process, which sets up what graphs find.
            self._graphs = GraphedPasses(self._graphed_pass, self._trained, self.recorder())
        # A GPU is waited for here, once a step, when all of the step is launched.
        total = self._total(losses)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the training loss is {total} at step {len(self.losses)} of {self.steps}; lower the "
                f"learning rate (now {self.training_spec.learning_rate}) or the method's scale"
            )
        if self._graphs is not None:
            self._give_up_graphs(self._graphs.problem)
        self.losses.append(total)
        if self.logger is not None:  # `self.log` would wait for the GPU at every number
            logged = {"train/loss": total, "train/learning_rate": schedule.get_last_lr()[0]}
            self.logger.log_metrics(logged, step=len(self.losses) - 1)

    def on_train_end(self) -> None:
        # The memory of graphs and gradients is free for the test.
        self._graphs = None
        for parameter in self._trained:
            parameter.grad = None

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Lightning runs this after the callbacks' hooks, which must see unclipped gradients.
        # An optimiser passes over a parameter without a gradient: momentum and weight decay do not move it.
        for parameter in self.method.held_still(self.model, len(self.losses), self.steps):
            parameter.grad = None
        if self.training_spec.gradient_clip is not None:
            trained = [parameter for parameter in self._trained if parameter.grad is not None]
            nn.utils.clip_grad_norm_(trained, self.training_spec.gradient_clip)

    def _clear_gradients(self) -> None:
        if self._graphs is not None:
            self._graphs.clear_gradients()
            return
        for parameter in self._trained:
            parameter.grad = None

    def _give_up_graphs(self, problem: str | None) -> None:
        if problem is not None and self.graph_problem is None:
            self.graph_problem = problem
            self.note(f"trains on without CUDA graphs, in more time: {problem}")

    def _accumulated(self, batch: dict[str, Any]) -> list[Tensor]:
        """This process's parts of the batch's mean loss. Leaves their gradient, over all processes, in the
        parameters."""
        while True:
            # Here and not after the step: Lightning also drops gradients, before a validation.
            self._clear_gradients()
            with self._reused_weights():
                losses, error = self._own_passes(batch)
            if not collectives.any_of(error is not None, self.device):
                collectives.sum_gradients(self._trained)
                return losses
            # No weight has changed yet, so the step starts again, without the memory of the failed try.
            if self._graphs is not None:
                # Graphs keep the memory of their passes: without them the same pass may fit.
                self._graphs = self.recorder = None
                self._give_up_graphs(error or "another process ran out of memory")
                free_memory()
            else:
                self.oom_backoff = one_more_halving(self.oom_backoff, batch["micro_batches"], error)

    def _reused_weights(self) -> AbstractContextManager[Any]:
        return self.method.reused_weights(self.model) if self.reuses_weights else nullcontext()

    def _total(self, losses: Sequence[Tensor]) -> float:
        """The sum of the losses, over all processes, in float64."""
        total = 0.0
        for loss in torch.stack(list(losses)).tolist():
            total += loss
        return collectives.total(total, self.device)

    def _own_passes(self, batch: dict[str, Any]) -> tuple[list[Tensor], str | None]:
        """This process's share of a batch's loss, and the error's message if it ran out of memory."""
        micro_batches, rank, ranks = batch["micro_batches"], collectives.rank(), collectives.world_size()
        losses: list[Tensor] = []
        try:
            # Every process makes equally many passes, since a sharded model needs all of them in each pass.
            # A process whose share is used up repeats the last micro-batch with weight 0.
            for index in range(rank, -(-len(micro_batches) // ranks) * ranks, ranks):
                weight = 1.0 if index < len(micro_batches) else 0.0
                here = min(index, len(micro_batches) - 1)
                parts = micro_batches[here] | {"examples": batch["examples"][here]}
                for piece in cut_rows(parts, self.oom_backoff):
                    examples = piece.pop("examples")
                    # Every pass begins at the same random numbers, a function of seed and step. So a resumed
                    # training repeats them, and masks depend on the example alone. The factor exceeds the
                    # longest training, 31,932 steps, so that no two (seed, step) share a value.
                    torch.manual_seed(1_000_003 * self.seed + len(self.losses))
                    # Texts that were cut on the right may all lack a target; their loss is 0.
                    targets = max(1, batch["targets"])
                    if self._graphs is not None:
                        count = torch.full((), targets, dtype=torch.float32, device=self.device)
                        losses.append(self._graphs(piece | {"batch_targets": count}))
                        continue
                    with self.masks(examples, piece):
                        losses.append(self._pass(piece, targets, weight))
        except torch.OutOfMemoryError as error:
            if not self.retries:
                raise sharded_error(error) from error
            return losses, " ".join(str(error).split())  # not the error, which holds on to the pass's tensors
        return losses, None

    def _pass(self, micro_batch: dict[str, Tensor], targets: int | Tensor, weight: float = 1.0) -> Tensor:
        """Forward and backward over a micro-batch; its detached part of the batch's mean loss."""
        loss = self.loss_sum(micro_batch) / targets * weight
        loss.backward()
        return loss.detach()

    def _graphed_pass(self, inputs: dict[str, Tensor]) -> Tensor:
        """The same, of tensors alone."""
        micro_batch = dict(inputs)
        return self._pass(micro_batch, micro_batch.pop("batch_targets"))

    def masks(self, examples: Tensor, micro_batch: dict[str, Tensor]) -> AbstractContextManager[Any]:
        """For a model with dropout, masks by example; for others nothing, which costs nothing."""
        if not self._has_dropout:
            return nullcontext()
        return ExampleDropout(examples, micro_batch.get("position_ids"))

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        self._validation_sum += sum(
            float(self.validation_loss_sum(micro)) for micro in batch["micro_batches"]
        )
        self._validation_targets += batch["targets"]

    def on_validation_epoch_end(self) -> None:
        mean = self._validation_sum / max(1, self._validation_targets)
        self._validation_sum, self._validation_targets = 0.0, 0
        self.validation_losses.append((len(self.losses), mean))
        self.log("validation/loss", mean)
        score = self.validation_score()
        if score is not None:
            self.validation_scores.append((len(self.losses), score))
            self.log("validation/score", score)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # Test items are not tensors yet; `predict` moves them to the model's device.
        if isinstance(batch, list):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def test_step(self, items: Sequence[Any], batch_index: int) -> None:
        self._test_batches.append(self.predicted(items))

    def on_test_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        ranks = collectives.gathered(self._test_batches)
        self._test_batches = []
        # Process i mod n computed batch i. Results beyond the last batch are repetitions that pad the shares.
        for index in range(len(data.test_batches)):
            self.predictions += ranks[index % len(ranks)][index // len(ranks)]

    def predicted(self, items: Sequence[Any]) -> list[Prediction]:
        """Predictions for a batch, in smaller ones if the memory does not suffice for it."""
        predictions, self.evaluation_backoff = in_batches_that_fit(
            self.predict, items, self.evaluation_backoff, retries=self.retries
        )
        return predictions

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
    # A tied weight has several names, and the state lists all of them.
    parameters = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in parameters if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}
