"""Invariances that a trained model must show before its scores are trusted.

Breaking one has spoilt published numbers: batches without a mask, dropout left on in evaluation, an adapter
that merges or reloads into something else. They are checked in every run, on a few test items, just before
the trained model is scored. A broken one is a warning in the result and in every table. It does not end the
run: its training may have cost days, and its predictions help to find the cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, FiniteFloat

from repro.config import ConfigError, Frozen
from repro.reading import excerpt

if TYPE_CHECKING:
    from torch import nn

    from repro.training.finetuning import FineTuning

# Test items that are probed, each five times: enough for several lengths. With eight a laptop run spent 4.2 s
# outside of training and evaluation, with four 2.7 to 3.0.
PROBE_ITEMS = 4

# Share of generated texts that may differ: one of `PROBE_ITEMS` in fp32, half of them in bf16. Between two
# beams of nearly the same score rounding decides, and then a whole text changes. Log-likelihoods and logits
# have no such jumps, so their tolerances, in the families' modules, allow for rounding alone.
TEXT_TOLERANCE = {"fp32": 1 / PROBE_ITEMS, "bf16": 1 / 2}

_RELOADED = "reloaded = in memory"


class Probe(Frozen):
    """One invariance: how far two ways of computing the same predictions are apart.

    Attributes:
        distance: in the unit of `FineTuning.distance`; None where a prediction is no finite number.
        tolerance: what rounding may cause.
        problem: why there are no predictions to compare.
    """

    name: str
    distance: Annotated[FiniteFloat, Field(ge=0)] | None
    tolerance: Annotated[FiniteFloat, Field(ge=0)]
    problem: str = ""

    @property
    def warning(self) -> str | None:
        """What a reader of the scores must know if the invariance is broken."""
        if self.distance is not None and self.distance <= self.tolerance:
            return None
        found = "by no finite number" if self.distance is None else f"by {self.distance:.3g}"
        why = f"predictions of the same items differ {found}, allowed are {self.tolerance:.3g}"
        return (
            f"probe '{self.name}' failed: {self.problem or why}; do not trust the scores before the cause is "
            "found"
        )


def probe(
    module: FineTuning,
    items: Sequence[Any],
    *,
    reload: Callable[[nn.Module], nn.Module] | None,
    merge: Callable[[nn.Module], nn.Module] | None,
) -> tuple[Probe, ...]:
    """The probes that the arguments allow; afterwards `module.model` is the merged model if `merge` is given.

    Args:
        reload: reads the trained model back from disk, in place or into another; None if nothing was trained.
        merge: turns the trained model into a plain one; None if that is not possible or not wanted.
    """
    reference = module.predicted(items)
    distances = {
        "batch of 1 = batch of N": module.distance(
            reference, [p for item in items for p in module.predicted([item])]
        ),
        "two passes": module.distance(reference, module.predicted(items)),
    }
    trained = module.model
    problems: dict[str, str] = {}
    if reload is not None:
        try:
            module.model = reload(trained)
            read_back = module.predicted(items)
            distances[_RELOADED] = module.distance(reference, read_back)
            if module.model is trained:  # in place: this is what is merged
                reference = read_back
        except ConfigError as error:
            distances[_RELOADED], problems[_RELOADED] = math.nan, excerpt(str(error))
    module.model = trained
    if merge is not None:
        module.model = merge(trained)
        distances["merged = unmerged"] = module.distance(reference, module.predicted(items))
    return tuple(
        Probe(
            name=name,
            distance=distance if math.isfinite(distance) else None,
            tolerance=module.probe_tolerance,
            problem=problems.get(name, ""),
        )
        for name, distance in distances.items()
    )
