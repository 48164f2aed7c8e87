"""Training compared with transformers' Trainer and peft's LoRA: same model, texts, batch and precision.

The Trainer is used as in its documentation: `DataCollatorForSeq2Seq` pads a batch to its longest text, and
the model computes the loss from `labels`, with logits for every position.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L

from repro.methods.base import PeftMethod
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.build import context_of
from repro.runs.checkpointing import Checkpoints
from repro.runs.measurements import Measurement
from repro.runs.trainer import lightning_trainer
from repro.speed.runs import Precision, lora_run
from repro.speed.timing import ratio, take_turns

# Tolerated relative difference of the two losses of one batch. Measured: 4e-8 in fp32, 1e-3 in bf16.
_EQUAL = {"fp32": 1e-4, "bf16": 1e-2}


def figures(small: bool = False) -> Iterator[Measurement]:
    """Tokens per second relative to the Trainer's, in fp32 and bf16."""
    for precision in ("fp32", "bf16"):
        yield _figure(small, precision)


def _figure(small: bool, precision: Precision) -> Measurement:
    spec, execution = lora_run(small, precision)
    bases = BaseModels()
    # The run's first optimiser batch. At the start of the warm-up the learning rate is 0, so all rounds see
    # the same weights.
    ours, texts, tokenizer = _ours(spec, execution, bases)
    theirs = _Theirs(spec, bases, texts, tokenizer)
    module, step = ours
    times = take_turns({"theirs": theirs.step, "ours": step}, rounds=1 if small else 3)
    loss = module.losses[0]
    if abs(loss - theirs.loss) > _EQUAL[precision] * abs(loss):
        raise RuntimeError(f"losses differ: {loss} here, {theirs.loss} in the Trainer")
    tokens = sum(len(text.ids) for text in texts)
    rate = tokens / times["ours"].median
    return Measurement(
        name="training: tokens per second, this project / transformers' Trainer with peft LoRA",
        at=f"{spec.model.name}, {len(texts)} texts of {tokens / len(texts):.0f} tokens, {precision}, 1 step",
        ratio=ratio(times["theirs"], times["ours"]),
        target=1.5,
        higher_is_better=True,
        note=f"{rate:.0f} against {tokens / times['theirs'].median:.0f} tokens per second; loss {loss:.4f} "
        f"against {theirs.loss:.4f}",
    )


def _ours(spec: RunSpec, execution: Execution, bases: BaseModels) -> Any:
    L.seed_everything(spec.seed, verbose=False)
    base, tokenizer = bases.checkout(spec.model, "causal_lm", spec.training.precision)
    context = context_of(spec, tokenizer, spec.training.batch_size, execution.evaluation_tokens)
    data = spec.benchmark.data(context)
    model = spec.method.attach(base, spec.adapted_modules, "causal_lm")
    module = spec.benchmark.module(model, context, data.steps)

    def step() -> None:
        module.losses.clear()
        with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            checkpoints = Checkpoints(folder / "checkpoints", spec.hash)
            trainer = lightning_trainer(spec, execution, checkpoints, folder)
            trainer.limit_train_batches = 1
            trainer.fit(module, datamodule=data)

    return (module, step), data.first_batch(), tokenizer


class _Theirs:
    """One step of the Trainer on the same texts; `loss` is the loss that it logs."""

    def __init__(self, spec: RunSpec, bases: BaseModels, texts: Any, tokenizer: Any) -> None:
        from peft import get_peft_model

        base, _ = bases.checkout(spec.model, "causal_lm", spec.training.precision)
        assert isinstance(spec.method, PeftMethod)
        config = spec.method.peft_config(spec.adapted_modules, "CAUSAL_LM", base)
        self._model = get_peft_model(base, config)
        self._spec = spec
        self._tokenizer = tokenizer
        self._rows = [
            {
                "input_ids": list(text.ids),
                "attention_mask": [1] * len(text.ids),
                "labels": text.labels(spec.training.loss_on),
            }
            for text in texts
        ]
        self.loss = float("nan")

    def step(self) -> None:
        from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

        training = self._spec.training
        with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=len(self._rows),
                max_steps=1,
                learning_rate=training.learning_rate,
                warmup_steps=training.warmup_steps,
                bf16=training.precision == "bf16",
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            )
            trainer = Trainer(
                model=self._model,
                args=arguments,
                train_dataset=self._rows,
                data_collator=DataCollatorForSeq2Seq(self._tokenizer, label_pad_token_id=-100),
            )
            trainer.remove_callback(PrinterCallback)  # it would print into the table
            self.loss = trainer.train().training_loss
