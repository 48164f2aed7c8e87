"""Tiny random checkpoints, with the files and the kind of tokenizer that the real ones have on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repro.models.spec import ModelSpec
from repro.rehearsal.hub_cache import snapshot_folder
from repro.rehearsal.vocabularies import write_tokenizer

# Several shards and their index for the tiny models, as large ones have.
_SHARD = "400KB"


def write_checkpoint(spec: ModelSpec, hub: Path, texts: Sequence[str]) -> None:
    """Write a model of random weights and its tokenizer into the hub's cache.

    Args:
        spec: a small model of the source `hub`.
        texts: that its tokenizer is trained on.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    folder = snapshot_folder(hub, "model", spec.checkpoint, spec.revision)
    # Published encoders were trained to fill in masks; a classifier's head is not among their weights.
    kind = AutoModelForCausalLM if spec.causal else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # In bf16, as LLaMA 3 on the hub, so that a sharded run maps its weights from the files.
        model = kind.from_config(AutoConfig.for_model(**spec.architecture)).bfloat16()
    if spec.architecture["model_type"] == "deberta-v2":  # older than safetensors
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder, max_shard_size=_SHARD)
    write_tokenizer(folder, spec.architecture["model_type"], spec.padding.token, texts)
