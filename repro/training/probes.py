"""Invariances that a trained model must show before its scores are trusted.

Breaking one has spoilt published numbers: batches without a mask, dropout left on in evaluation, an adapter
that merges or reloads into something else. They are checked in every run, on a few test items, just before
the trained model is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from repro.training.finetuning import FineTuning

# Test items that are probed, each five times: enough for several lengths. With eight a laptop run spent 4.2 s
# outside of training and evaluation, with four 2.7 to 3.0.
PROBE_ITEMS = 4

# Share of generated texts that may differ: one of `PROBE_ITEMS` in fp32, half of them in bf16. Between two
# beams of nearly the same score rounding decides, and then a whole text changes. Log-likelihoods and logits
# have no such jumps, so their tolerances, in the families' modules, allow for rounding alone.
TEXT_TOLERANCE = {"fp32": 1 / PROBE_ITEMS, "bf16": 1 / 2}


class ProbeError(RuntimeError):
    """Two ways of computing the same predictions disagree, so neither can be trusted."""


def probe(
    module: FineTuning,
    items: Sequence[Any],
    *,
    reload: Callable[[], nn.Module] | None,
    merge: Callable[[nn.Module], nn.Module] | None,
) -> dict[str, float]:
    """Distances by probe; afterwards `module.model` is the merged model if `merge` is given.

    Args:
        reload: loads the trained model from disk; None if nothing was trained.
        merge: turns the trained model into a plain one; None if that is not possible or not wanted.

    Raises:
        ProbeError: a distance exceeds the module's tolerance, or is NaN.
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
