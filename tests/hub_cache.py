"""A checkpoint as the hub's client leaves it in its cache, written without a network."""

from __future__ import annotations

from pathlib import Path

import torch

from repro.models import ModelSpec
from repro.models.loading import byte_tokenizer, load_model

CHECKPOINT, COMMIT = "tests/tiny", 5 * "0123abcd"


def write_checkpoint(home: Path, spec: ModelSpec, dtype: torch.dtype = torch.float32) -> ModelSpec:
    """Writes a random model under HF_HOME, in several safetensors files; returns its description there."""
    repository = home / "hub" / f"models--{CHECKPOINT.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    load_model(spec, "causal_lm", dtype).save_pretrained(snapshot, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return ModelSpec.model_validate(spec.model_dump() | {"source": "hub", "checkpoint": CHECKPOINT})
