"""A benchmark family, a folder beside this file: its typed settings, and what the harness asks of it."""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from repro.config import ConfigError, Frozen, one_of, parse

if TYPE_CHECKING:
    from torch import nn

    from repro.training.context import RunContext
    from repro.training.finetuning import FineTuning, Prediction
    from repro.training.finetuning_data import FineTuningData
    from repro.training.spec import TrainingSpec


class TaskScore(Frozen):
    """The figures of one column of a table.

    Attributes:
        metric: the full name, protocol and all, for instance `accuracy (cloze)`.
        value: in the table's unit, percent unless a metric has one of its own; None where it is missing.
        items: how many items the value is over.
        outcomes: one number an item, in the order of the items' ids, with the value as their mean. For an
            accuracy one digit each, 1 for right and 0 for wrong; for a metric of all items together its
            jackknife pseudo-values, whose spread is the metric's own.
        unparsed: share of the items whose answer could not be read, between 0 and 1.
        constant: whether every item got the same answer, the mark of a collapsed model.
        missing: why there is no value, and what to do about it.
    """

    metric: str
    value: float | None
    items: int
    outcomes: str | tuple[float, ...]
    unparsed: float
    constant: bool
    missing: str = ""


class TrainingSize(NamedTuple):
    """How much there is to train on in one epoch.

    Attributes:
        tokens: of all examples, without padding.
        predicted: predictions in the loss: tokens of a language model, examples of a classifier.
        longest: tokens that no example exceeds.
    """

    examples: int
    tokens: float
    predicted: float
    longest: int


class Benchmark(Frozen):
    """Settings of one family, as they stand in a run's spec, and the way from them to data and scores.

    Attributes:
        family: the name of the folder.
        model_task: what the model is loaded as.
        scorer_version: rises whenever the same predictions would get another score.
        run_per_task: whether every task has a training of its own; then a run's settings name one in `tasks`.
        validates_by_score: whether validation gives a score, by which weights can be selected.
        averaged: whether a mean over the columns means anything.
        decimals: of columns that are printed with more than one.
    """

    family: str
    model_task: ClassVar[Literal["causal_lm", "seq_cls"]] = "causal_lm"
    scorer_version: ClassVar[int]
    run_per_task: ClassVar[bool] = False
    validates_by_score: ClassVar[bool] = False
    averaged: ClassVar[bool] = True
    decimals: ClassVar[dict[str, int]] = {}

    @property
    def num_labels(self) -> int | None:
        """Outputs of the classifier's head; None for a language model."""
        return None

    @classmethod
    @abstractmethod
    def headings(cls) -> dict[str, str]:
        """Every column that the family knows, in the paper's order, and its heading."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, str]:
        """The columns of a table that these settings fill, and their headings."""

    @property
    @abstractmethod
    def note(self) -> str:
        """Protocol, source and sizes of the data, in a sentence for the table's notes."""

    @abstractmethod
    def training_size(self, training: TrainingSpec) -> TrainingSize:
        """What one epoch holds, by the sets' sizes and their mean lengths, without the data themselves."""

    @abstractmethod
    def data(self, context: RunContext) -> FineTuningData:
        """The tokenised data of a run."""

    @abstractmethod
    def module(self, model: nn.Module, context: RunContext, steps: int) -> FineTuning:
        """The Lightning module that trains `model` for `steps` optimiser steps, and tests it."""

    @abstractmethod
    def score(self, predictions: Sequence[Prediction]) -> dict[str, TaskScore]:
        """Scores of stored predictions, one for each column, without any model."""


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
