"""What the harness asks of a benchmark family, which is a folder beside this file."""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import FiniteFloat

from repro.config import ConfigError, Frozen, one_of, parse

if TYPE_CHECKING:
    from torch import nn

    from repro.training.context import RunContext
    from repro.training.finetuning import FineTuning, Prediction
    from repro.training.finetuning_data import FineTuningData
    from repro.training.spec import TrainingSpec

T = TypeVar("T")


class TaskScore(Frozen):
    """The score of one column of a table.

    Attributes:
        metric: the full name with the protocol, for instance `accuracy (cloze)`.
        value: in the table's unit, which is percent unless the metric has its own; None if missing.
        items: number of items that were scored.
        outcomes: one number per item, in the order of the items' ids, with the value as their mean. For an
            accuracy one digit each, 1 for right and 0 for wrong; for a corpus-level metric its jackknife
            pseudo-values, which have the metric's standard error.
        log_probabilities: of the items' gold answers in nats, in the order of `outcomes`; what they are of is
            said by `Benchmark.gold`. From `repro.benchmarks.gold_probability`, so rounded and no less than
            its floor. Empty for a column without them, and in results of older scorers. Columns that share
            their items have them once, in the first.
        unparsed: share of the items whose answer could not be read, between 0 and 1.
        constant: whether every item got the same answer, the sign of a collapsed model.
        missing: why there is no value, and what to do about it.
    """

    metric: str
    value: FiniteFloat | None
    items: int
    outcomes: str | tuple[FiniteFloat, ...]
    log_probabilities: tuple[FiniteFloat, ...] = ()
    unparsed: FiniteFloat
    constant: bool
    missing: str = ""


class Item(NamedTuple):
    """A test item as a person reads it.

    Attributes:
        part: the task. Items of one part are scored together.
        options: the answers to choose from; none where the answer is a number or a text.
        gold: index of the right option; None without options.
        wanted: the right answers as texts; none with options.
    """

    id: str
    part: str
    question: str
    options: tuple[str, ...] = ()
    gold: int | None = None
    wanted: tuple[str, ...] = ()


class Answer(NamedTuple):
    """A stored prediction as a person reads it.

    Attributes:
        choice: index of the chosen option; None without options, or if no answer can be read.
        scores: of each option, the highest of which is chosen; none of a generated text.
        text: what was generated, or the predicted number.
        read: whether an answer can be read.
    """

    choice: int | None = None
    scores: tuple[float, ...] = ()
    text: str = ""
    read: bool = True


class TrainingSize(NamedTuple):
    """The size of one epoch.

    Attributes:
        tokens: of all examples, without padding.
        predicted: terms of the loss: predicted tokens of a language model, examples of a classifier.
        longest: an upper bound on the tokens of one example.
    """

    examples: int
    tokens: float
    predicted: float
    longest: int


def of_nearest_vocabulary(counts: Mapping[int, T], vocabulary: int) -> T:
    """What was counted with the vocabulary of the nearest size. A text has fewer tokens of a larger one."""
    return counts[min(counts, key=lambda size: abs(size - vocabulary))]


class EvaluationSize(NamedTuple):
    """The size of the test set, and how an item is answered.

    Attributes:
        tokens: mean tokens of an item's prompt, with all options where these alone are scored.
        counted: tokens for which a mean item counts in a batch of `evaluation_tokens`.
        predicted: positions of a mean item whose logits are computed at once.
        beams, new_tokens: of generated texts.
        scored: where texts are generated, mean tokens of an item in the pass beside it that computes the
            likelihoods of its gold answers; `predicted` is of that pass.
    """

    items: int
    tokens: float
    counted: float
    predicted: float
    beams: int = 1
    new_tokens: int = 0
    scored: float = 0.0


class Benchmark(Frozen):
    """Settings of one family, as a run's spec holds them, and how to get data and scores from them.

    Attributes:
        family: the name of the folder.
        model_task: what the model is loaded as.
        scorer_version: raised whenever the same predictions would get another score.
        run_per_task: whether every task is trained separately; then a run's settings name one in `tasks`.
        validates_by_score: whether validation gives a score, by which weights can be selected.
        shares_items: whether all columns are scores of the same items, and not each of its own.
        averaged: whether the mean over the columns is meaningful.
        gold: what `TaskScore.log_probabilities` are of, as a clause for the notes of a table.
        decimals: by column, where more than one is printed.
    """

    family: str
    model_task: ClassVar[Literal["causal_lm", "seq_cls"]] = "causal_lm"
    scorer_version: ClassVar[int]
    run_per_task: ClassVar[bool] = False
    validates_by_score: ClassVar[bool] = False
    shares_items: ClassVar[bool] = False
    averaged: ClassVar[bool] = True
    gold: ClassVar[str]
    decimals: ClassVar[dict[str, int]] = {}

    @property
    def num_labels(self) -> int | None:
        """Outputs of the classification head; None for a language model."""
        return None

    @classmethod
    @abstractmethod
    def headings(cls) -> dict[str, str]:
        """All columns of the family, in the paper's order, with their headings."""

    @classmethod
    def gold_columns(cls) -> tuple[str, ...]:
        """The columns whose items have a gold answer with a probability; of shared items the first."""
        return tuple(cls.headings())[: 1 if cls.shares_items else None]

    @property
    @abstractmethod
    def columns(self) -> dict[str, str]:
        """The columns that these settings fill, with their headings."""

    @property
    @abstractmethod
    def note(self) -> str:
        """Protocol, source and sizes of the data, as a sentence for the table's notes."""

    @abstractmethod
    def training_size(self, training: TrainingSpec, vocabulary: int) -> TrainingSize:
        """The size of one epoch, computed without the data, from known set sizes and mean lengths.

        Args:
            vocabulary: number of entries of the model's, which says how many tokens a text has.
        """

    @abstractmethod
    def evaluation_size(self, vocabulary: int) -> EvaluationSize:
        """The size of the test set, in the way of `training_size`."""

    @abstractmethod
    def data(self, context: RunContext) -> FineTuningData:
        """The tokenised data of a run."""

    @abstractmethod
    def module(self, model: nn.Module, context: RunContext, steps: int) -> FineTuning:
        """The Lightning module that trains `model` for `steps` optimiser steps, and tests it."""

    @abstractmethod
    def test_records(self) -> list[Any]:
        """What is tested, as the dataclasses whose `fingerprint` a result names; raises `DataError`."""

    @abstractmethod
    def item(self, record: Any) -> Item:
        """One of `test_records` for people."""

    @abstractmethod
    def answer(self, prediction: Prediction) -> Answer:
        """A stored prediction for people; raises `DataError` if it is malformed."""

    @abstractmethod
    def score(self, predictions: Sequence[Prediction]) -> dict[str, TaskScore]:
        """Scores of stored predictions by column; needs no model."""


@cache
def benchmark_families() -> dict[str, type[Benchmark]]:
    """Every family by name: the `BENCHMARK` of each folder beside this file."""
    import repro.benchmarks

    folders = [m.name for m in pkgutil.iter_modules(repro.benchmarks.__path__) if m.ispkg]
    classes = [importlib.import_module(f"repro.benchmarks.{folder}").BENCHMARK for folder in folders]
    return {cls.model_fields["family"].default: cls for cls in classes}


def parse_benchmark(content: Any, source: str = "benchmark") -> Benchmark:
    """Build the settings of the family that `content["family"]` names.

    Raises:
        ConfigError: unknown family, or settings that do not fit it.
    """
    if isinstance(content, Benchmark):
        return content
    families = benchmark_families()
    family = content.get("family") if isinstance(content, Mapping) else None
    if family not in families:
        raise ConfigError(f"{source}: family: {one_of('benchmark family', family, families)}")
    return parse(content, families[family], source)
