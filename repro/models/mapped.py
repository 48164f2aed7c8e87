"""Tells whether loading a model reads its weights, or maps them from files to be read where they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from repro.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch


def maps_weights(spec: ModelSpec, dtype: torch.dtype) -> bool:
    """Whether `load_model` maps the weights, so that a process has only those in memory that it uses.

    transformers maps a hub checkpoint's safetensors files if their matrices have the wanted dtype. Random
    weights, those of a package or of `.bin` files, and those of another dtype are made in memory. Files that
    are not in the cache yet are not looked for elsewhere.
    """
    from safetensors import SafetensorError, safe_open

    found = set()
    try:
        for path in _safetensors_files(spec):
            with safe_open(path, "pt") as file:
                slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118  it is no mapping
                found |= {one.get_dtype() for one in slices if len(one.get_shape()) > 1}
    except (OSError, ValueError, KeyError, SafetensorError):
        return False  # loading says what is wrong with them
    return found == {_name_in_file(dtype)}


def _safetensors_files(spec: ModelSpec) -> set[Path]:
    """The safetensors files of a checkpoint in the hub's cache; none if it is not there or has none."""
    import huggingface_hub
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    if spec.source != "hub":
        return set()
    one, index = (
        huggingface_hub.try_to_load_from_cache(spec.checkpoint, name, revision=spec.revision)
        for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    )
    if isinstance(one, str):
        return {Path(one)}
    if isinstance(index, str):
        return {
            Path(index).parent / name for name in json.loads(Path(index).read_text())["weight_map"].values()
        }
    return set()


def _name_in_file(dtype: torch.dtype) -> str:
    import torch

    return {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
