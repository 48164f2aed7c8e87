"""A copy of `experiments/` in which models, data sets and trainings are tiny, and all else is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from repro.config import read_yaml
from repro.rehearsal.vocabularies import VOCABULARY

# Records of each split of a data set, and the most that settings may say of records, steps and tokens.
# Eight commonsense tasks give nine optimiser steps in three epochs: the ramp ends, validations follow.
RECORDS = {"train": 12, "validation": 6, "test": 6}
_MOST = {
    "epochs": 3,
    "validation_size": 8,
    "validate_every": 2,
    "warmup_steps": 2,
    "max_new_tokens": 12,
}

# Wide enough for every rank of the paper's rows, 128 of CorDA.
_ARCHITECTURE = {
    "hidden_size": 128,
    "n_embd": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "vocab_size": VOCABULARY,
}


def shrink_experiments(source: Path, target: Path, profile: str, *, accelerator: str) -> None:
    """Write the copy. Only models of the hub are shrunk: those of packages are small and found without one.

    Args:
        profile: which keeps its settings, but has two processes where it has several.
        accelerator: on which its runs are executed.
    """
    for path in sorted(source.rglob("*.yaml")):
        place = path.relative_to(source)
        content = _limited(read_yaml(path))
        if place.parts[0] == "models" and content["source"] == "hub":
            content["architecture"] = _small(content["architecture"])
        elif place.parts[0] == "data":
            for described in content["sets"].values():
                for name, split in described["splits"].items():
                    split["size"] = RECORDS[name]
        elif place.parts == ("profiles", f"{profile}.yaml"):
            _on_this_machine(content, accelerator)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), "utf-8")


def _limited(content: Any) -> Any:
    """The content with every number of `_MOST` lowered, however deep it lies."""
    if isinstance(content, dict):
        return {
            key: min(value, _MOST[key]) if key in _MOST and isinstance(value, int) else _limited(value)
            for key, value in content.items()
        }
    return [_limited(value) for value in content] if isinstance(content, list) else content


def _small(architecture: dict[str, Any]) -> dict[str, Any]:
    small = {
        key: min(value, _ARCHITECTURE.get(key, value)) if isinstance(value, int) else value
        for key, value in architecture.items()
    }
    if "num_key_value_heads" in small:  # fewer of them than heads where the model has fewer
        grouped = architecture["num_key_value_heads"] < architecture["num_attention_heads"]
        small["num_key_value_heads"] = small["num_attention_heads"] // (2 if grouped else 1)
    return small


def _on_this_machine(profile: dict[str, Any], accelerator: str) -> None:
    profile["watermark"] = "REHEARSAL: tiny random models and made-up data. These numbers mean nothing."
    profile.setdefault("execution", {})["accelerator"] = accelerator
    for model in profile.get("models", {}).values():
        execution = model.get("execution", {})
        if execution.get("devices", 1) * execution.get("nodes", 1) > 1:
            execution |= {"devices": 2, "nodes": 1}
    for family in profile["families"].values():
        # CorDA starts from 256 training examples, more than there are.
        family.setdefault("methods", {}).setdefault("corda", {})["samples"] = 8
