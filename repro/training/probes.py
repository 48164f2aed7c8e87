"""Invariances that a trained model must show before its numbers are believed.

Each has spoilt published numbers: batches without a mask, dropout left on in evaluation, an adapter that
merges or reloads into something else. They are checked on a few test items of every run, on the trained
model, just before it is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from repro.training.finetuning import FineTuning


class ProbeError(RuntimeError):
    """Two ways of computing the same predictions disagree, so none of them can be trusted."""


def probe(
    module: FineTuning,
    items: Sequence[Any],
    *,
    reload: Callable[[], nn.Module] | None,
    merge: Callable[[nn.Module], nn.Module] | None,
) -> dict[str, float]:
    """Distances by probe; afterwards `module.model` is the merged model, where `merge` is given.

    Args:
        reload: gives the trained model as it comes back from the disk; None where nothing was trained.
        merge: turns the trained model into a plain one; None where that cannot be done, or is not wanted.

    Raises:
        ProbeError: a distance exceeds the module's tolerance, or is not a number.
    """
    reference = module.predicted(items)
    distances = {
        "batch of 1 = batch of N": module.distance(
            reference, [p for item in items for p in module.predicted([item])]
        ),
        "two passes": module.distance(reference, module.predicted(items)),
    }
    trained = module.model
    if reload is not None:
        module.model = reload()
        distances["reloaded = in memory"] = module.distance(reference, module.predicted(items))
    module.model = trained
    if merge is not None:
        module.model = merge(trained)
        distances["merged = unmerged"] = module.distance(reference, module.predicted(items))
    for name, distance in distances.items():
        if not distance <= module.probe_tolerance:
            raise ProbeError(
                f"probe '{name}' failed: the predictions of {len(items)} test items differ by "
                f"{distance:.3g}, allowed are {module.probe_tolerance:.3g}"
            )
    return distances
