"""The E2E family's Lightning module: loss on the sentence, sentences by beam search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.causal_lm import Example, encode_example, generate, negative_log_likelihood
from repro.benchmarks.data import DataError
from repro.benchmarks.e2e.records import Record
from repro.benchmarks.finetuning import FineTuning, Prediction
from repro.benchmarks.training import TrainingSpec
from repro.methods.base import Method

# Share of the probed sentences that may differ: a near tie between two beams may fall either way.
_TEXTS = {"fp32": 0.15, "bf16": 0.5}


@dataclass(frozen=True)
class Decoding:
    """Beam search: see `repro.benchmarks.causal_lm.generate`."""

    beams: int
    max_new_tokens: int
    length_penalty: float
    no_repeat_ngram: int


@dataclass(frozen=True)
class TestItem:
    """A meaning representation with its tokens."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    record: Record
    prompt: tuple[int, ...]


def prompt_text(record: Record, tokenizer: PreTrainedTokenizerBase) -> str:
    """The representation and the end token that parts it from its sentence, as upstream's encoding has it."""
    if tokenizer.eos_token is None:
        raise DataError("the tokenizer has no end token, which E2E's encoding needs; use another model")
    return f"{record.prompt}{tokenizer.eos_token}"


def encode(
    record: Record, tokenizer: PreTrainedTokenizerBase, *, append_eos: bool, max_tokens: int
) -> Example:
    """A training text: the representation, the end token, a space and the reference."""
    return encode_example(
        tokenizer,
        prompt_text(record, tokenizer),
        f" {record.references[0]}",
        append_eos=append_eos,
        max_tokens=max_tokens,
    )


class E2EModule(FineTuning):
    """Smoothed cross-entropy of the reference's tokens; one sentence for each test item."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        training: TrainingSpec,
        *,
        steps: int,
        seed: int,
        tokenizer: PreTrainedTokenizerBase,
        decoding: Decoding,
    ) -> None:
        super().__init__(model, method, training, steps=steps, seed=seed)
        self.tokenizer = tokenizer
        self.decoding = decoding

    def loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
        return negative_log_likelihood(
            self.model,
            micro_batch["input_ids"],
            micro_batch["labels"],
            label_smoothing=self.training_spec.label_smoothing,
        )

    def predict(self, items: Sequence[TestItem]) -> list[Prediction]:
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
            }
            for item, text in zip(items, texts, strict=True)
        ]

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """Share of the sentences that differ."""
        pairs = list(zip(one, other, strict=True))
        return sum(a["text"] != b["text"] for a, b in pairs) / len(pairs)

    @property
    def probe_tolerance(self) -> float:
        return _TEXTS[self.training_spec.precision]
