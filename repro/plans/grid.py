"""Rows that vary: one row of an experiment file that expands to a grid of rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

# What differs between the points of a row: not its name, nor the axes themselves.
_VARIED = ("method", "training", "benchmark", "methods", "tasks", "targets", "preset", "init_from")
_MOST_POINTS = 20_000

Axis = Mapping[str, tuple[Any, ...]]
"""Dotted keys of a row, each with its values. Keys of one axis change together, as in `zip`."""


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuse invalid axes.

    Raises:
        ValueError: an axis is empty, its keys have different numbers of values, a key is in two axes or
            cannot vary, or there are too many points.
    """
    for axis in axes:
        lengths = {key: len(values) for key, values in axis.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            shown = ", ".join(f"{key}: {count}" for key, count in lengths.items()) or "no key"
            raise ValueError(f"vary: all keys of an axis need the same number of values ({shown})")
    if math.prod(len(values) for axis in axes for values in list(axis.values())[:1]) > _MOST_POINTS:
        raise ValueError(f"vary: more than {_MOST_POINTS:,} points; give some axes fewer values")
    keys = [key for axis in axes for key in axis]
    for key in keys:
        if key.split(".")[0] not in _VARIED:
            raise ValueError(f"vary: {key!r} cannot vary; allowed: keys in {', '.join(_VARIED)}")
        if any(other.startswith(f"{key}.") for other in keys):
            raise ValueError(f"vary: {key!r} holds another key that varies; keep one of them")
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
