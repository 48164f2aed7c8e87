"""Training compared with transformers' Trainer and peft's LoRA: same model, texts, batch and precision.

The Trainer is used as in its documentation: `DataCollatorForSeq2Seq` pads a batch to its longest text, and
the model computes the loss from `labels`, with logits for every position.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from repro.methods.peft_method import PeftMethod
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.build import context_of
from repro.runs.checkpointing import Checkpoints
from repro.runs.measurements import Measurement
from repro.runs.trainer import lightning_trainer
from repro.speed.budget import OutOfTime
from repro.speed.conditions import Conditions, Found
from repro.speed.cpu_layer import seconds_per_tdk
from repro.speed.runs import Precision, lora_run
from repro.speed.timing import ratio, take_turns

# Tolerated relative difference of the two losses of one batch. Measured: 4e-8 in fp32, 1e-3 in bf16.
_EQUAL = {"fp32": 1e-4, "bf16": 1e-2}

# Optimiser steps of one call: on a GPU so many that they, and not the call's own preparations, are timed.
_STEPS = {"cpu": 1, "cuda": 40}


def figures(conditions: Conditions) -> Iterator[Found]:
    """Tokens per second relative to the Trainer's, in fp32 and bf16."""
    slowness = {"fp32": 1.0, "bf16": 1.0}
    if conditions.device == "cpu" and not conditions.small:
        slowness["bf16"] = seconds_per_tdk("bf16") / seconds_per_tdk("fp32")
    fp32_seconds = 0.0
    for precision, budget in conditions.budget.shared(slowness):
        before = budget.clock()
        try:
            # Where a processor lacks bf16, the same takes longer than in fp32 by what a product does.
            budget.check(fp32_seconds * slowness[precision])
            yield _figure(replace(conditions, budget=budget), precision)  # type: ignore[arg-type]
        except OutOfTime as error:
            yield f"training, {precision}: not measured: {error}"
        fp32_seconds = fp32_seconds or budget.clock() - before


def _figure(conditions: Conditions, precision: Precision) -> Measurement:
    spec, execution = lora_run(conditions.small, precision, conditions.device)
    bases = BaseModels()
    steps = 2 if conditions.small else _STEPS[conditions.device]
    # The run's first optimiser batches. At the start of the warm-up the learning rate is 0, so that the first
    # step leaves the weights as they are.
    ours = _Ours(spec, execution, bases)
    batches = ours.data.first_batches(steps)
    theirs = _Theirs(spec, bases, batches, ours.tokenizer, conditions.device)
    ours.train(1)
    theirs.train(1)
    loss, other = ours.module.losses[0], theirs.loss
    if abs(loss - other) > _EQUAL[precision] * abs(loss):
        raise RuntimeError(f"losses differ: {loss} here, {other} in the Trainer")
    times = take_turns(
        {"theirs": lambda: theirs.train(steps), "ours": lambda: ours.train(steps)},
        rounds=1 if conditions.small else 3,
        warm_up=0,  # both have taken a step
        budget=conditions.budget,
    )
    texts = sum(map(len, batches))
    tokens = sum(len(text.ids) for batch in batches for text in batch)
    rate = tokens / times["ours"].median
    return Measurement(
        name="training: tokens per second, this project / transformers' Trainer with peft LoRA",
        at=f"{spec.model.name}, {texts // steps} texts of {tokens / texts:.0f} tokens, {precision}, {steps} "
        + ("step" if steps == 1 else "steps"),
        ratio=ratio(times["theirs"], times["ours"]),
        target=1.5,
        higher_is_better=True,
        note=f"{rate:.0f} against {tokens / times['theirs'].median:.0f} tokens per second; loss of the first "
        f"step {loss:.4f} against {other:.4f}",
    )


class _Ours:
    """The first steps of a run, as a run takes them."""

    def __init__(self, spec: RunSpec, execution: Execution, bases: BaseModels) -> None:
        L.seed_everything(spec.seed, verbose=False)
        base, self.tokenizer = bases.checkout(spec.model, "causal_lm", spec.training.precision)
        context = context_of(spec, self.tokenizer, spec.training.batch_size, execution.evaluation_tokens)
        self.data = spec.benchmark.data(context)
        model = spec.method.attach(base, spec.adapted_modules, "causal_lm")
        self.module = spec.benchmark.module(model, context, self.data.steps)
        self._spec, self._execution = spec, execution

    def train(self, steps: int) -> None:
        self.module.losses.clear()
        with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            checkpoints = Checkpoints(folder / "checkpoints", self._spec.hash)
            trainer = lightning_trainer(self._spec, self._execution, checkpoints, folder)
            trainer.limit_train_batches = steps
            trainer.fit(self.module, datamodule=self.data)


class _Theirs:
    """The Trainer on the same texts; `loss` is the mean loss that it logs."""

    def __init__(
        self, spec: RunSpec, bases: BaseModels, batches: Sequence[Sequence[Any]], tokenizer: Any, device: str
    ) -> None:
        from peft import get_peft_model

        base, _ = bases.checkout(spec.model, "causal_lm", spec.training.precision)
        assert isinstance(spec.method, PeftMethod)
        config = spec.method.peft_config(spec.adapted_modules, "CAUSAL_LM", base)
        self._model = get_peft_model(base, config)
        self._spec = spec
        self._tokenizer = tokenizer
        self._device = device
        self._batches = [
            [
                {
                    "input_ids": list(text.ids),
                    "attention_mask": [1] * len(text.ids),
                    "labels": text.labels(spec.training.loss_on),
                }
                for text in batch
            ]
            for batch in batches
        ]
        self.loss = float("nan")

    def train(self, steps: int) -> None:
        """That many steps, on the texts of the first batches, which the Trainer shuffles."""
        from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

        training = self._spec.training
        with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=len(self._batches[0]),
                max_steps=steps,
                learning_rate=training.learning_rate,
                warmup_steps=training.warmup_steps,
                bf16=training.precision == "bf16",
                use_cpu=self._device == "cpu",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            )
            trainer = Trainer(
                model=self._model,
                args=arguments,
                train_dataset=[row for batch in self._batches[:steps] for row in batch],
                data_collator=DataCollatorForSeq2Seq(self._tokenizer, label_pad_token_id=-100),
            )
            trainer.remove_callback(PrinterCallback)  # it would print into the table
            self.loss = trainer.train().training_loss
