"""What a benchmark family needs to know of a run, to make its data and its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from repro.methods.base import Method
    from repro.training.spec import TrainingSpec


@dataclass(frozen=True)
class RunContext:
    """One run, as its data and its module see it.

    Attributes:
        seed: of the order of the training data and of dropout.
        micro_batch_size: examples in one forward pass of training.
        evaluation_tokens: the largest test batch, in tokens.
        regular: whether training micro-batches are to have few different shapes, for CUDA graphs.
    """

    tokenizer: PreTrainedTokenizerBase
    method: Method
    training: TrainingSpec
    seed: int
    micro_batch_size: int
    evaluation_tokens: int
    regular: bool = False
