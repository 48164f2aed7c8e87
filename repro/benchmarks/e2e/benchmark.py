"""Settings of the E2E family, and the data, module and scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from repro.benchmarks.base import (
    Answer,
    Benchmark,
    EvaluationSize,
    Item,
    TaskScore,
    TrainingSize,
    of_nearest_vocabulary,
)
from repro.benchmarks.e2e.records import Record, grouped, pairs
from repro.benchmarks.e2e.sources import SOURCES, Split
from repro.benchmarks.gold_probability import stored
from repro.benchmarks.hub_sets import hub_size
from repro.benchmarks.overlap import ALLOWED, overlap_warnings
from repro.benchmarks.stored import StoredPrediction, by_id, read_predictions
from repro.config import Seed, added
from repro.training.data import DataError, batches_by_tokens, fingerprints, select
from repro.training.data_files import shown
from repro.training.truncation import truncated_shares

if TYPE_CHECKING:
    from torch import nn

    from repro.benchmarks.e2e.module import E2EModule
    from repro.training.causal_lm import Example
    from repro.training.context import RunContext
    from repro.training.finetuning import Prediction
    from repro.training.finetuning_data import FineTuningData
    from repro.training.spec import TrainingSpec


# Training sentences of the synthetic set.
_SYNTHETIC_SIZE = 4_000
# By size of the vocabulary, the mean tokens of an example and of its sentence, of the official set and of the
# synthetic one. GPT-2's: counted on all sentences; SmolLM2's: on every 42nd of the official set and every 4th
# of the synthetic one.
_MEAN_TOKENS = {
    50_257: {"official": (53.5, 25.0), "synthetic": (63.2, 33.6)},
    49_152: {"official": (56.6, 26.4), "synthetic": (65.7, 34.9)},
}
# Meaning representations of the official sets.
_EVALUATED = {"test": 630, "development": 547}
# Mean references of a test representation: of the official set 4,693 / 630.
_REFERENCES = {"official": 7.45, "synthetic": 5.0}


class _Prediction(StoredPrediction):
    text: str
    gold: list[str]
    log_likelihoods: list[float] = []
    normalisers: list[Annotated[FiniteFloat, Field(gt=0)]] = []


def _log_probabilities(predictions: Sequence[_Prediction]) -> tuple[float, ...]:
    """As `E2E.score` says; none where no prediction has likelihoods.

    Raises:
        DataError: a prediction has other than one likelihood and one normaliser for each reference.
    """
    if not any(prediction.log_likelihoods for prediction in predictions):
        return ()
    found = []
    for prediction in predictions:
        counts = len(prediction.gold), len(prediction.log_likelihoods), len(prediction.normalisers)
        if len(set(counts)) > 1:
            raise DataError(
                f"prediction {shown(prediction.id)} has {counts[0]} references, {counts[1]} log_likelihoods "
                f"and {counts[2]} normalisers; predict it again"
            )
        references = zip(prediction.log_likelihoods, prediction.normalisers, strict=True)
        found.append(stored(sum(value / tokens for value, tokens in references) / counts[0]))
    return tuple(found)


class E2E(Benchmark):
    """Sentences from restaurants' meaning representations, by five metrics.

    Attributes:
        source: where the records come from; see `sources`.
        evaluated: what is scored: the `test` set, or the `development` set, to choose settings on.
        train_size: training sentences, None for all.
        validation_size: development sentences for the validation loss.
        test_size: representations that are scored, None for all.
        max_tokens: longest training text.
        beams, length_penalty, no_repeat_ngram, max_new_tokens: of the beam search; see
            `repro.training.generation.generate`. The defaults are the LoRA paper's (Table 11).
        allowed_overlap: largest share of the test representations that may be trained on as well.
        data_seed: of the choice of records. Not the run's seed: all runs of a table see the same items.
    """

    scorer_version: ClassVar[int] = 2
    shares_items: ClassVar[bool] = True
    averaged: ClassVar[bool] = False
    gold: ClassVar[str] = "of a token of the references: a mean over references of log-likelihood / tokens"
    decimals: ClassVar[dict[str, int]] = {"nist": 2, "cider": 2}

    family: Literal["e2e"] = "e2e"
    source: Literal["local", "hub", "synthetic"]
    evaluated: Literal["test", "development"] = added("test")
    train_size: int | None = Field(default=None, ge=1)
    validation_size: int = Field(default=0, ge=0)
    test_size: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(default=512, ge=8)
    beams: int = Field(default=10, ge=1)
    length_penalty: float = 0.9
    no_repeat_ngram: int = Field(default=4, ge=0)
    max_new_tokens: int = Field(default=64, ge=1)
    allowed_overlap: float = added(ALLOWED, ge=0, le=1)
    data_seed: Seed = 0

    @model_validator(mode="after")
    def _sentences_suffice(self) -> E2E:
        available = self._available
        if self.source != "local" and (self.train_size or 1) > available:
            raise ValueError(
                f"train_size: {self.train_size} (allowed: up to {available}, all of {self.source!r})"
            )
        return self

    @property
    def _available(self) -> int:
        return _SYNTHETIC_SIZE if self.source == "synthetic" else hub_size("e2e", "e2e", "train")

    @classmethod
    def headings(cls) -> dict[str, str]:
        return {"bleu": "BLEU", "nist": "NIST", "meteor": "METEOR", "rouge_l": "ROUGE-L", "cider": "CIDEr"}

    @property
    def columns(self) -> dict[str, str]:
        return self.headings()

    @property
    def note(self) -> str:
        trained = "all" if self.train_size is None else str(self.train_size)
        tested = "all" if self.test_size is None else str(self.test_size)
        return (
            f"{trained} training sentences and {tested} {self.evaluated} representations with all their "
            f"references, from the source '{self.source}' ({SOURCES.get(self.source).note}); "
            f"{self.beams} beams, length penalty {self.length_penalty:g}, "
            f"no repeated {self.no_repeat_ngram}-grams, "
            f"up to {self.max_new_tokens} new tokens."
        )

    @property
    def _split(self) -> Split:
        return "test" if self.evaluated == "test" else "validation"

    @property
    def _set(self) -> str:
        return "synthetic" if self.source == "synthetic" else "official"

    def _mean_tokens(self, vocabulary: int) -> tuple[float, float]:
        """Of an example and of its sentence."""
        return of_nearest_vocabulary(_MEAN_TOKENS, vocabulary)[self._set]

    def training_size(self, training: TrainingSpec, vocabulary: int) -> TrainingSize:
        text, completion = self._mean_tokens(vocabulary)
        examples = min(self.train_size or self._available, self._available)
        predicted = completion if training.loss_on == "completion" else text - 1
        return TrainingSize(examples, examples * text, examples * predicted, self.max_tokens)

    def evaluation_size(self, vocabulary: int) -> EvaluationSize:
        text, completion = self._mean_tokens(vocabulary)
        available = _EVALUATED[self.evaluated]
        items, prompt = min(self.test_size or available, available), text - completion
        counted = self.beams * (prompt + self.max_new_tokens)
        sentences = _REFERENCES[self._set] * completion
        return EvaluationSize(
            items, prompt, counted, sentences, self.beams, self.max_new_tokens, scored=prompt + sentences
        )

    def data(self, context: RunContext) -> FineTuningData:
        from repro.benchmarks.e2e.module import encode_items, training_text
        from repro.training.causal_lm import micro_batches
        from repro.training.finetuning_data import FineTuningData
        from repro.training.token_cache import encoded_examples

        tokenizer, training = context.tokenizer, context.training
        source = SOURCES.get(self.source)
        trained, tested = pairs(source.load("train")), grouped(source.load(self._split))
        warnings = overlap_warnings(
            "e2e",
            (frozenset(record.slots) for record in trained),
            [frozenset(record.slots) for record in tested],
            self.allowed_overlap,
        )
        train, test = self._some(trained, self.train_size), self._some(tested, self.test_size)
        validation: list[Record] = []
        if self.validation_size:
            validation = self._some(pairs(source.load("validation")), self.validation_size)

        def examples(records: Sequence[Record]) -> list[Example]:
            texts = [training_text(record, tokenizer) for record in records]
            return encoded_examples(
                texts, tokenizer, append_eos=training.append_eos, max_tokens=self.max_tokens
            )

        encoded = examples(train)
        items = encode_items(test, tokenizer)
        # Longest first, so that a batch too large for the memory shows at once.
        items.sort(key=lambda item: (-len(item.prompt), item.record.id))
        # Every beam of an item is a row of its own, and grows by the new tokens.
        lengths = [self.beams * (len(item.prompt) + self.max_new_tokens) for item in items]
        return FineTuningData(
            train=encoded,
            validation=examples(validation),
            test_batches=list(batches_by_tokens(items, lengths, context.evaluation_tokens)),
            fingerprints=fingerprints(train=train, validation=validation, test=test),
            warnings=warnings,
            truncated=truncated_shares((self.family, example.dropped > 0) for example in encoded),
            length=lambda example: len(example.ids),
            collate=micro_batches(training.loss_on, tokenizer.pad_token_id),
            collate_regular=micro_batches(training.loss_on, tokenizer.pad_token_id, regular=True),
            context=context,
        )

    def module(self, model: nn.Module, context: RunContext, steps: int) -> E2EModule:
        from repro.benchmarks.e2e.module import Decoding, E2EModule

        decoding = Decoding(self.beams, self.max_new_tokens, self.length_penalty, self.no_repeat_ngram)
        return E2EModule(model, context, steps, decoding)

    def test_records(self) -> list[Record]:
        return self._some(grouped(SOURCES.get(self.source).load(self._split)), self.test_size)

    def item(self, record: Record) -> Item:
        return Item(record.id, self.family, record.prompt, wanted=record.references)

    def answer(self, prediction: Prediction) -> Answer:
        (read,) = read_predictions(_Prediction, [prediction], self.family)
        return Answer(text=read.text, read=bool(read.text))

    def score(self, predictions: Sequence[Prediction]) -> dict[str, TaskScore]:
        """The metrics; in the first column, for all, the items' log-probabilities of their references.

        An item's is the mean over its references of log-likelihood / tokens, so that its exponential is the
        geometric mean of the probabilities of a reference's token. Predictions of version 1 lack them.
        """
        from repro.benchmarks.e2e.metrics import score

        read = read_predictions(_Prediction, by_id(predictions), "e2e")
        texts = [prediction.text for prediction in read]
        metrics = score(texts, [prediction.gold for prediction in read])
        (first,) = self.gold_columns()
        return {
            name: TaskScore(
                metric=metric.name,
                value=metric.value,
                items=len(texts),
                outcomes=tuple(round(item, 4) for item in metric.per_item),
                log_probabilities=_log_probabilities(read) if name == first else (),
                unparsed=texts.count("") / len(texts),
                constant=len(texts) > 1 and len(set(texts)) == 1,
                missing=metric.missing,
            )
            for name, metric in metrics.items()
        }

    def _some(self, records: Sequence[Record], count: int | None) -> list[Record]:
        return list(records) if count is None else select(records, count, self.data_seed)
