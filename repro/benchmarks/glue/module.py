"""The GLUE family's Lightning module: an encoder with a classification (or, for STS-B, regression) head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.glue.records import Record, Task
from repro.benchmarks.glue.scoring import metric
from repro.training.context import RunContext
from repro.training.data import DataError
from repro.training.finetuning import FineTuning, Prediction
from repro.training.token_cache import Arrays, cached_arrays, joined, parted, tokenizer_key

# Largest difference of a logit between two batchings: fp32 sums in another order; bf16 keeps 8 bits.
_LOGITS = {"fp32": 1e-3, "bf16": 0.2}

_TOKENISED_AT_ONCE = 10_000  # records; the tokenizer's own objects take some 10 KB for each


@dataclass(frozen=True)
class Example:
    """A record with its tokens; `segments` are the token type ids, for a model that has them."""

    record: Record
    ids: tuple[int, ...]
    segments: tuple[int, ...] | None


def encode(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_tokens: int, key: str
) -> list[Example]:
    """Tokenise texts or pairs, or read their tokens from the cache; a pair that is too long loses tokens of
    its longer text.

    Args:
        key: the records' fingerprint.
    """

    def build() -> Arrays:
        ids: list[Sequence[int]] = []
        segments: list[int] = []
        for start in range(0, len(records), _TOKENISED_AT_ONCE):
            texts = [record.texts for record in records[start : start + _TOKENISED_AT_ONCE]]
            encoded = tokenizer(
                *(list(column) for column in zip(*texts, strict=True)),
                truncation=True,
                max_length=max_tokens,
                return_attention_mask=False,
            )
            ids += encoded["input_ids"]
            segments += chain.from_iterable(encoded.get("token_type_ids", ()))
        return joined(ids) | {"segments": np.array(segments, dtype=np.int8)}

    stored = cached_arrays([key, *tokenizer_key(tokenizer), f"pairs of {max_tokens}"], build)
    ids = parted(stored["ids"], stored["ends"])
    if not len(stored["segments"]):
        return [Example(record, row, None) for record, row in zip(records, ids, strict=True)]
    return list(map(Example, records, ids, parted(stored["segments"], stored["ends"])))


def collate(examples: Sequence[Example], pad_id: int, *, regression: bool) -> dict[str, Tensor]:
    """Right-padded `input_ids` and `attention_mask` (examples, longest), and `labels` (examples,)."""
    width = max(len(example.ids) for example in examples)

    def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])

    batch = {
        "input_ids": padded([example.ids for example in examples], pad_id),
        "attention_mask": padded([[1] * len(example.ids) for example in examples], 0),
    }
    segments = [example.segments for example in examples if example.segments is not None]
    if segments:
        batch["token_type_ids"] = padded(segments, 0)
    dtype = torch.float32 if regression else torch.long
    return batch | {"labels": torch.tensor([example.record.label for example in examples]).to(dtype)}


class GlueModule(FineTuning):
    """Cross-entropy over the classes, or for STS-B the squared error of the score."""

    def __init__(self, model: nn.Module, context: RunContext, steps: int, task: Task) -> None:
        super().__init__(model, context, steps)
        if self.tokenizer.pad_token_id is None:
            raise DataError(
                "the tokenizer has no padding token; name one under `padding` in the model's file"
            )
        self.pad_id = self.tokenizer.pad_token_id
        self.task = task
        self._seen: list[tuple[Tensor, Tensor]] = []  # logits and labels of this validation so far

    @property
    def regression(self) -> bool:
        return self.task.labels == 1

    def loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
        return self._loss(self._logits(micro_batch), micro_batch["labels"])

    def validation_loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
        logits = self._logits(micro_batch)
        self._seen.append((logits.cpu(), micro_batch["labels"].cpu()))
        return self._loss(logits, micro_batch["labels"])

    def validation_score(self) -> float | None:
        logits, labels = (
            torch.cat(parts).numpy().astype(np.float64) for parts in zip(*self._seen, strict=True)
        )
        self._seen = []
        return metric(self.task.name, logits, labels)

    @torch.inference_mode()
    def predict(self, items: Sequence[Example]) -> list[Prediction]:
        batch = collate(items, self.pad_id, regression=self.regression)
        device = next(self.model.parameters()).device
        logits = self._logits({name: tensor.to(device) for name, tensor in batch.items()}).cpu()
        return [_prediction(item.record, row) for item, row in zip(items, logits.tolist(), strict=True)]

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """Largest absolute difference of a logit."""
        pairs = zip(one, other, strict=True)
        return float(
            torch.tensor([[x - y for x, y in zip(a["logits"], b["logits"], strict=True)] for a, b in pairs])
            .abs()
            .max()
        )

    @property
    def probe_tolerance(self) -> float:
        return _LOGITS[self.training_spec.precision]

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return self.model(**inputs).logits.float()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.regression:
            return nn.functional.mse_loss(logits[:, 0], labels, reduction="sum")
        smoothing = self.training_spec.label_smoothing
        return nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def _prediction(record: Record, logits: list[float]) -> Prediction:
    prediction: dict[str, Any] = {
        "task": record.task,
        "id": record.id,
        "gold": record.label,
        "logits": logits,
    }
    return prediction | ({"part": record.part} if record.part else {})
