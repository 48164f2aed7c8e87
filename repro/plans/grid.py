"""Rows that vary: one row of an experiment file that expands to a grid of rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Axis = Mapping[str, tuple[Any, ...]]
"""Dotted keys of a row, each with its values. Keys of one axis change together, as in `zip`."""


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuse invalid axes.

    Raises:
        ValueError: an axis is empty, its keys have different numbers of values, or a key is in two axes.
    """
    for axis in axes:
        lengths = {key: len(values) for key, values in axis.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            shown = ", ".join(f"{key}: {count}" for key, count in lengths.items()) or "no key"
            raise ValueError(f"vary: all keys of an axis need the same number of values ({shown})")
    keys = [key for axis in axes for key in axis]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"vary: {repeated[0]!r} is in two axes; keep it in one")


def points(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Every grid point as dotted keys and values, the last axis fastest. Without axes: one empty point."""
    steps = [
        [dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)] for axis in axes
    ]
    return [{k: v for step in point for k, v in step.items()} for point in itertools.product(*steps)]


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings, the inverse of `repro.plans.spec.flatten`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = result
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return result
