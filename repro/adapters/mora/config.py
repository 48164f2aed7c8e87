"""Settings of the MoRA tuner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from peft import PeftType

from repro.adapters.additive import AdditiveConfig


@dataclass
class MoraConfig(AdditiveConfig):
    """f(x) = decompress(M compress(x)), with a trained square matrix M between two fixed operators.

    There is no alpha: the authors' code does not scale the update.

    Args:
        rank: r of the LoRA that has as many parameters as M.
        compression: `rotation` for small ranks, Eq. 9 of arXiv 2405.12130 and type 6 of the authors' code;
            `sharing` for large ones, Eq. 6 and type 1.
    """

    rank: int = 8
    compression: Literal["rotation", "sharing"] = "rotation"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MORA")
        if self.rank < 1:
            raise ValueError(f"MoRA: rank must be at least 1 (got {self.rank})")
        if self.compression not in ("rotation", "sharing"):
            raise ValueError(f"MoRA: compression must be 'rotation' or 'sharing' (got {self.compression!r})")


def square_side(out_features: int, in_features: int, rank: int, compression: str) -> int:
    """Rows and columns of M: sqrt((d + k) r) to the nearest integer, or to the even one below for rotation.

    A rotation turns pairs of coordinates, so it needs an even number of them.
    """
    side = math.floor(math.sqrt((out_features + in_features) * rank) + 0.5)
    return side // 2 * 2 if compression == "rotation" else side
