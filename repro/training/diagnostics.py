"""What happens inside the adapters during training: a few snapshots of every adapted layer.

Loss curves do not show why a method works or fails. These numbers help, above all for Dual LoRA with its ReLU
and Sign: how many entries the ReLU keeps at zero, how many signs still flip, how much gradient reaches each
factor, and how much of the update is lost when it is merged into a low-precision weight.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from repro.config import Frozen


class Diagnostics(Frozen):
    """Snapshots of the adapted layers of one run.

    Attributes:
        steps: optimiser steps done at each snapshot; the first is 0, before training, and the last after it.
        layers: by layer and measure, one number for each snapshot, None where it is not defined.

            unchanged       share of the d x k entries of dW that are exactly 0: weights that did not change
            update_norm     ||dW||, Frobenius
            relative_norm   ||dW|| / ||W0||
            gradient/...    norm of the loss's gradient with respect to each group of parameters, unclipped,
                            in the step before the snapshot

            and of Dual LoRA, shares of the d x k entries:

            dead            B A <= 0, where the ReLU passes no gradient
            zero            D C exactly 0, so that it has no sign
            flipped         sign of D C differs from step 0
            flipped_in_step sign of D C differs from the step before
        merge_errors: by layer and dtype, ||round(W0 + dW) - (W0 + dW)|| / ||dW|| after training, with W0
            rounded to that dtype: the share of the update that merging loses.
    """

    version: Literal[1] = 1
    steps: tuple[int, ...]
    layers: dict[str, dict[str, tuple[float | None, ...]]]
    merge_errors: dict[str, dict[str, float]]

    @model_validator(mode="after")
    def _has_a_number_for_every_step(self) -> Diagnostics:
        lengths = {len(values) for series in self.layers.values() for values in series.values()}
        if not lengths <= {len(self.steps)} or (self.merge_errors and not self.steps):
            raise ValueError(f"{len(self.steps)} steps, but series of {sorted(lengths)} numbers")
        return self
