"""The commonsense family's Lightning module: trains on the mix, answers under the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.commonsense.records import Record
from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.training.causal_finetuning import CausalFineTuning
from repro.training.context import RunContext
from repro.training.finetuning import Prediction
from repro.training.generation import generate
from repro.training.options import Options
from repro.training.token_cache import encoded_options

# Largest difference of an option's log-likelihood between two batchings, in nats. In fp32 the largest seen
# on SmolLM2-135M is 1e-4; bf16 keeps 8 bits of a logit, so a sum over tokens may change by tenths.
_NATS = {"fp32": 5e-3, "bf16": 1.0}


@dataclass(frozen=True)
class TestItem:
    """A test record with its tokens; texts are generated from `prompt`, which is empty under cloze."""

    __test__ = False  # pytest would take it for a test case because of its name

    record: Record
    options: Options
    normalisers: tuple[float, ...]
    prompt: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of the item in a batch."""
        return len(self.prompt or self.options)


def encode_items(
    records: Sequence[Record], protocol: GenerateSettings | ClozeSettings, tokenizer: PreTrainedTokenizerBase
) -> list[TestItem]:
    """Tokenise test records for their protocol. Test items are never truncated."""
    generated = isinstance(protocol, GenerateSettings)
    texts = list(map(protocol.protocol().options, records))
    every = encoded_options([(text.context, text.continuations) for text in texts], tokenizer)
    return [
        TestItem(record, options, tuple(text.normalisers), prompt=options.context if generated else ())
        for record, text, options in zip(records, texts, every, strict=True)
    ]


class CommonsenseModule(CausalFineTuning):
    """Loss on the answer (or the whole text), answers by generation or by likelihood."""

    def __init__(
        self,
        model: nn.Module,
        context: RunContext,
        steps: int,
        protocol: GenerateSettings | ClozeSettings,
    ) -> None:
        super().__init__(model, context, steps)
        self.protocol = protocol

    def predict(self, items: Sequence[TestItem]) -> list[Prediction]:
        predictions: list[Prediction] = [
            {
                "task": item.record.task,
                "id": item.record.id,
                "gold": item.record.gold,
                "log_likelihoods": likelihoods,
                "normalisers": list(item.normalisers),
            }
            for item, likelihoods in zip(
                items, self.log_likelihoods([item.options for item in items]), strict=True
            )
        ]
        if not isinstance(self.protocol, GenerateSettings):
            return predictions
        texts = generate(
            self.model,
            self.tokenizer,
            [item.prompt for item in items],
            beams=self.protocol.beams,
            max_new_tokens=self.protocol.max_new_tokens,
        )
        return [prediction | {"text": text} for prediction, text in zip(predictions, texts, strict=True)]

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """Largest difference of a log-likelihood in nats, or share of generated texts that differ."""
        if isinstance(self.protocol, GenerateSettings):
            return super().distance(one, other)
        differences = [
            abs(x - y)
            for a, b in zip(one, other, strict=True)
            for x, y in zip(a["log_likelihoods"], b["log_likelihoods"], strict=True)
        ]
        return float(torch.tensor(differences).max())  # a NaN stays one, which Python's max does not promise

    @property
    def probe_tolerance(self) -> float:
        if isinstance(self.protocol, GenerateSettings):
            return super().probe_tolerance
        return _NATS[self.training_spec.precision]
