"""What families that fine-tune a causal language model share, as a Lightning module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from repro.training.causal_lm import negative_log_likelihood
from repro.training.finetuning import FineTuning, Prediction
from repro.training.probes import TEXT_TOLERANCE


class CausalFineTuning(FineTuning):
    """Cross-entropy of the predicted tokens. Predictions are generated texts unless a family overrides it."""

    def loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
        return negative_log_likelihood(
            self.model, micro_batch, label_smoothing=self.training_spec.label_smoothing
        )

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        """Share of the texts that differ."""
        pairs = list(zip(one, other, strict=True))
        return sum(a["text"] != b["text"] for a, b in pairs) / len(pairs)

    @property
    def probe_tolerance(self) -> float:
        return TEXT_TOLERANCE[self.training_spec.precision]
