"""What the runs of a profile would need: space for models and results, memory of GPUs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from repro.analysis.estimates import Estimates
from repro.models.shapes import base_parameters
from repro.runs.states import RunState

_GIB = 2**30
_FP16, _FP32 = 2, 4  # bytes
# Bytes of a run's checkpoints for each trained weight: the latest with Adam's two states, and the best.
_CHECKPOINT = 16


def needs(estimates: Estimates, results: Path) -> list[str]:
    """A line for each model, then the sums beside the free space of the results' disk."""
    by_model: dict[str, list[RunState]] = {}
    for state in estimates.states:
        by_model.setdefault(state.spec.model.name, []).append(state)
    lines, files, kept = [], 0, 0
    for name, states in by_model.items():
        model = states[0].spec.model
        weights = _FP16 * base_parameters(model.architecture) if model.source == "hub" else 0
        adapters = _adapters(states)
        checkpoint = _CHECKPOINT * max(state.spec.trained_parameters for state in states)
        training = max(estimates.costs[state.spec.hash].memory for state in states)
        test = max(estimates.tests[state.spec.hash].memory for state in states)
        lines.append(
            f"  {name}: {len(states)} runs; disk: weights {weights / _GIB:.3g} GiB in 16 bits (twice in 32), "
            f"adapters {adapters / _GIB:.2g}, checkpoints {checkpoint / _GIB:.2g} a run; each GPU: training "
            f"{training / _GIB:.3g} GiB, test {test / _GIB:.3g}"
        )
        files, kept = files + weights, kept + adapters
    free = shutil.disk_usage(_existing(results)).free
    return [
        *lines,
        f"  disk in all: {files / _GIB:.3g} GiB of weights, {kept / _GIB:.3g} GiB of adapters; "
        f"{free / _GIB:.3g} GiB are free beside the results (a quota is not seen)",
    ]


def _adapters(states: Sequence[RunState]) -> int:
    return sum(
        _FP32 * state.spec.trained_parameters
        for state in states
        if state.spec.trains and not state.spec.trains_base
    )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
