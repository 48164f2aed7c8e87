"""The size of a run's update after training, from its diagnostics or from the two numbers kept of them."""

from __future__ import annotations

import math

from pydantic import Field, FiniteFloat

from repro.config import Frozen
from repro.plans.spec import RunSpec
from repro.runs.json_files import read_json
from repro.runs.store import NORM, Store
from repro.training.diagnostics import Diagnostics


class Norm(Frozen):
    """Frobenius norms over all adapted layers together: of the update after training, and of the weights."""

    update: FiniteFloat = Field(ge=0)
    weight: FiniteFloat = Field(gt=0)

    @property
    def relative(self) -> float:
        """||dW|| / ||W0||."""
        return self.update / self.weight


def known_norm(spec: RunSpec, store: Store) -> Norm | None:
    """The norm of a finished run; None if its method has no dW or it was not looked into.

    Raises:
        DamagedFile: a file cannot be understood.
    """
    kept = read_json(store.directory(spec) / NORM, Norm, "delete it to do without")
    if kept is not None:
        return kept
    diagnostics = store.diagnostics(spec)
    return None if diagnostics is None else norm_of(diagnostics)


def norm_of(diagnostics: Diagnostics) -> Norm | None:
    """The norms at the last snapshot. ||W0|| is known of layers whose dW was not 0 at some snapshot.

    None if there is no such layer, or another one, whose ||W0|| would be missing from the sum.
    """
    updates, weights = [], []
    for series in diagnostics.layers.values():
        known = [
            size / relative
            for size, relative in zip(series["update_norm"], series["relative_norm"], strict=True)
            if size and relative
        ]
        last = series["update_norm"][-1]
        if not known or last is None:
            return None
        updates.append(last)
        weights.append(known[-1])
    return Norm(update=math.hypot(*updates), weight=math.hypot(*weights)) if updates else None
