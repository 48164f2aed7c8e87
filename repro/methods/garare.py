"""GaRare: GaLore with a random projector, which needs no SVD and no memory."""

from __future__ import annotations

from typing import ClassVar, Literal

from repro.methods.galore import GaLore


class GaRare(GaLore):
    """Our reading of GaRare; its authors' repository holds no code.

    The paper does not give the projector's distribution, how often it is drawn, or what happens to Adam's
    moments. Here it is Gaussian, N(0, 1/r), and new every `update_gap` steps, the moments are kept, and the
    rest is GaLore's.

    This projector is not orthonormal: its mapped step is about sqrt(min(d, k) / r) times GaLore's at the same
    learning rate and scale, ten times for a 768 x 768 matrix at rank 8.
    """

    label: ClassVar[str] = "GaRare"
    citation: ClassVar[str] = (
        "Liu et al., On the Optimization Landscape of Low Rank Adaptation Methods for Large Language Models "
        "(ICLR 2025)"
    )
    projector: ClassVar[Literal["svd", "gaussian"]] = "gaussian"

    name: Literal["garare"] = "garare"  # type: ignore[assignment]
