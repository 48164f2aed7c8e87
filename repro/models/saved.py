"""Reads saved weights: exactly the expected tensors, or none. Never a pickle, which could hold code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.config import ConfigError
from repro.reading import excerpt, read_regular, strict_json

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file that holds those of `expected`: names, shapes and dtypes, all finite.

    Raises:
        ConfigError: it is missing or damaged, or holds others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"{path} is missing; weights are read from no other file")
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({excerpt(str(error))})") from error
    for fault in _faults(found, expected):
        raise ConfigError(f"{path}: not what was trained ({excerpt(fault)})")
    return found


def read_mapping(path: Path) -> dict[str, Any]:
    """A mapping in JSON.

    Raises:
        ConfigError: it is missing or damaged, or no mapping.
    """
    try:
        content = read_regular(path)
        if content is None:
            raise ValueError("there is no such file")
        found = strict_json(content)
        if not isinstance(found, dict):
            raise ValueError("it is no mapping")
        return found
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({excerpt(str(error))})") from error


def _faults(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(expected.keys() - found.keys()):
        yield f"it lacks {name}"
    for name, tensor in found.items():
        wanted = expected.get(name)
        if wanted is None:
            yield f"it has {name}, which the method does not train"
        elif (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            shapes = [f"{tuple(one.shape)} {one.dtype}" for one in (tensor, wanted)]
            yield f"{name} is {shapes[0]}, it was {shapes[1]}"
        elif not tensor.isfinite().all():
            yield f"{name} holds what is no finite number"
