"""The E2E family's Lightning module: loss on the sentence, sentences by beam search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.e2e.records import Record
from repro.training.causal_finetuning import CausalFineTuning
from repro.training.context import RunContext
from repro.training.data import DataError
from repro.training.finetuning import Prediction
from repro.training.generation import generate
from repro.training.options import Options
from repro.training.token_cache import TrainingText, encoded_options


@dataclass(frozen=True)
class Decoding:
    """Beam search: see `repro.training.generation.generate`."""

    beams: int
    max_new_tokens: int
    length_penalty: float
    no_repeat_ngram: int


@dataclass(frozen=True)
class TestItem:
    """A meaning representation with its tokens, and those of its references as `options`."""

    __test__ = False  # pytest would take it for a test case because of its name

    record: Record
    options: Options

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.options.context


def prompt_text(record: Record, tokenizer: PreTrainedTokenizerBase) -> str:
    """The representation and the end token that separates it from its sentence, as in microsoft/LoRA."""
    if tokenizer.eos_token is None:
        raise DataError("the tokenizer has no end token, which E2E's encoding needs; use another model")
    return f"{record.prompt}{tokenizer.eos_token}"


def training_text(record: Record, tokenizer: PreTrainedTokenizerBase) -> TrainingText:
    """The representation and the end token, a space and the reference."""
    return prompt_text(record, tokenizer), _completion(record.references[0]), ""


def _completion(reference: str) -> str:
    return f" {reference}"


def encode_items(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> list[TestItem]:
    """Tokenise test records with all their references, as a training text is."""
    texts = [(prompt_text(r, tokenizer), list(map(_completion, r.references))) for r in records]
    return list(map(TestItem, records, encoded_options(texts, tokenizer)))


class E2EModule(CausalFineTuning):
    """Smoothed cross-entropy of the reference's tokens; one sentence for each test item.

    Beside it the log-likelihoods of the item's references, with their tokens as normalisers.
    """

    def __init__(self, model: nn.Module, context: RunContext, steps: int, decoding: Decoding) -> None:
        super().__init__(model, context, steps)
        self.decoding = decoding

    def predict(self, items: Sequence[TestItem]) -> list[Prediction]:
        likelihoods = self.log_likelihoods([item.options for item in items])
        texts = generate(
            self.model,
            self.tokenizer,
            [item.prompt for item in items],
            beams=self.decoding.beams,
            max_new_tokens=self.decoding.max_new_tokens,
            length_penalty=self.decoding.length_penalty,
            no_repeat_ngram=self.decoding.no_repeat_ngram,
        )
        return [
            {
                "id": item.record.id,
                "prompt": item.record.prompt,
                "gold": list(item.record.references),
                "text": " ".join(text.split()),
                "log_likelihoods": values,
                "normalisers": [float(len(reference)) for reference in item.options.continuations],
            }
            for item, text, values in zip(items, texts, likelihoods, strict=True)
        ]
