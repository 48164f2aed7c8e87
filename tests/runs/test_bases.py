"""Base models that runs share: what a run gets does not depend on the runs before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repro.config import ConfigError
from repro.models import load_model_spec
from repro.runs import bases
from repro.runs.bases import BaseModels


@pytest.mark.parametrize("keep", [True, False])
def test_a_loaded_and_a_kept_base_get_the_same_head(monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    """transformers draws the missing head of a classifier when it loads a checkpoint."""
    load = bases.load_model

    def drawing(*args: Any, **settings: Any) -> Any:
        torch.rand(3)
        return load(*args, **settings)

    monkeypatch.setattr(bases, "load_model", drawing)
    models, heads = BaseModels(keep), []
    for _ in range(2):
        torch.manual_seed(0)
        model, _ = models.checkout(load_model_spec("tiny-bert"), "seq_cls", "fp32", 2)
        heads.append((model.classifier.weight, torch.rand(1)))
    for one, other in zip(*heads, strict=True):
        assert torch.equal(one, other)


def test_a_tokenizer_that_cannot_be_loaded_costs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(spec: Any) -> None:
        raise ConfigError("no sentencepiece")

    monkeypatch.setattr(bases, "load_tokenizer", failing)
    monkeypatch.setattr(bases, "load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match="no sentencepiece"):
        BaseModels().checkout(load_model_spec("tiny-bert"), "seq_cls", "fp32", 2)
