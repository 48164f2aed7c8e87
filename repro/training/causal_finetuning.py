"""What families that fine-tune a causal language model share, as a Lightning module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from repro.training.causal_lm import negative_log_likelihood
from repro.training.context import RunContext
from repro.training.data import batches_by_tokens
from repro.training.finetuning import FineTuning, Prediction
from repro.training.options import Options, option_log_likelihoods
from repro.training.probes import TEXT_TOLERANCE


class CausalFineTuning(FineTuning):
    """Cross-entropy of the predicted tokens. Predictions are generated texts unless a family overrides it."""

    def __init__(self, model: nn.Module, context: RunContext, steps: int) -> None:
        super().__init__(model, context, steps)
        self.evaluation_tokens = context.evaluation_tokens

    def loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
        return negative_log_likelihood(
            self.model, micro_batch, label_smoothing=self.training_spec.label_smoothing
        )

    def log_likelihoods(self, items: Sequence[Options]) -> list[list[float]]:
        """`option_log_likelihoods` in nats, in as many passes as `evaluation_tokens` wants.

        A test batch is cut by what its family does first. A batch of prompts may have more tokens with their
        continuations.
        """
        passes = [list(items)]
        if self.retries:  # else the processes of a sharded model make equally many passes: one
            lengths = [len(item) for item in items]
            passes = list(batches_by_tokens(items, lengths, self.evaluation_tokens, packed=True))
        pad_id = self.tokenizer.pad_token_id
        return [
            values for part in passes for values in option_log_likelihoods(self.model, part, pad_id=pad_id)
        ]

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """Share of the texts that differ."""
        pairs = list(zip(one, other, strict=True))
        return sum(a["text"] != b["text"] for a, b in pairs) / len(pairs)

    @property
    def probe_tolerance(self) -> float:
        return TEXT_TOLERANCE[self.training_spec.precision]
