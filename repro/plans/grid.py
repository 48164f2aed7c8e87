"""Rows that vary: one line of an experiment file that stands for a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Axis = Mapping[str, tuple[Any, ...]]
"""Dotted keys of a row and their values, which change together: the first of each, the second of each, ..."""


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuse what is no grid.

    Raises:
        ValueError: an axis is empty, its keys have unequally many values, or a key is in two axes.
    """
    for axis in axes:
        lengths = {key: len(values) for key, values in axis.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            shown = ", ".join(f"{key}: {count}" for key, count in lengths.items()) or "no key"
            raise ValueError(f"vary: the keys of an axis change together and need as many values ({shown})")
    keys = [key for axis in axes for key in axis]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"vary: {repeated[0]!r} stands in two axes; a key can vary in one only")


def points(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Every point of the grid as dotted keys and values; the last axis runs fastest. No axes: one point."""
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
