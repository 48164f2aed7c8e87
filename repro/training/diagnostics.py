"""What happens inside the adapters while they train: a few looks at every adapted layer.

Loss curves do not show why a method works or fails. These numbers do, above all for Dual LoRA, whose ReLU and
Sign pass no gradient of their own: how many entries the ReLU keeps dead, how many signs still turn, how much
gradient reaches each factor, and what is lost when the update is merged into a coarse weight.
"""

from __future__ import annotations

from typing import Literal

from repro.config import Frozen


class Diagnostics(Frozen):
    """Looks at the adapted layers of one run.

    Attributes:
        steps: optimiser steps behind each look; the first is 0, before training, and the last after it.
        layers: by layer and measure, a number for each look, None where it is not defined.

            unchanged       share of the d x k entries of dW that are exactly 0: weights left as they were
            update_norm     ||dW||, Frobenius
            relative_norm   ||dW|| / ||W0||
            gradient/...    norm of the loss's gradient with respect to each group of parameters, unclipped,
                            in the step before the look

            and of Dual LoRA, shares of the d x k entries:

            dead            B A not above 0, where the ReLU passes no gradient
            zero            D C exactly 0, which has no sign of its own
            flipped         D C of another sign than at step 0
            flipped_in_step D C of another sign than one step before
        merge_errors: by layer and dtype, ||round(W0 + dW) - (W0 + dW)|| / ||dW|| after training, with W0
            rounded to that dtype: the share of the update that merging loses.
    """

    version: Literal[1] = 1
    steps: tuple[int, ...]
    layers: dict[str, dict[str, tuple[float | None, ...]]]
    merge_errors: dict[str, dict[str, float]]
