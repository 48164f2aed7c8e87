"""Base models, loaded once for many runs of one process."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from repro.models.head import draw_head
from repro.models.loading import Task, load_model, load_tokenizer
from repro.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class BaseModels:
    """Keeps the last base model that was asked for, untouched, and hands out copies of it.

    A copy costs 0.2 s for 135M weights. Nothing that a run does to its copy, full fine-tuning included,
    reaches the next.
    """

    def __init__(self, keep: bool = True) -> None:
        """With `keep` False no model is kept or copied, for a model that does not fit twice."""
        self._keep = keep
        self._key: object = None
        self._loaded: tuple[nn.Module, PreTrainedTokenizerBase] | None = None

    def checkout(
        self, spec: ModelSpec, task: Task, precision: str, num_labels: int | None = None
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """A fresh model in evaluation mode, the head of a classifier drawn anew, and its tokenizer."""
        key = (spec.model_dump_json(), task, precision, num_labels)
        if key != self._key or self._loaded is None:
            self._loaded = None  # never two at a time
            # Loading a classifier draws a head. A run must not depend on whether its base was still here.
            with torch.random.fork_rng(devices=[]):
                tokenizer = load_tokenizer(spec)  # first: where it fails, no time was spent on the weights
                self._loaded = load_model(spec, task, DTYPES[precision], num_labels), tokenizer
            self._key = key
        model, tokenizer = self._loaded
        if self._keep:
            model = copy.deepcopy(model)
        else:
            self._loaded = None
        if task == "seq_cls":
            draw_head(model)
        return model, tokenizer
