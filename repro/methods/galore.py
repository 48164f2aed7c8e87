"""GaLore: all weights trained, by AdamW with moments of a low-rank projection of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from repro.methods.base import OptimizerSettings
from repro.methods.fft import FullFineTuning
from repro.models.shapes import LinearShape, linear_shapes

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class GaLore(FullFineTuning):
    """Full fine-tuning with GaLore's optimiser, in the setting of its authors' GLUE runs.

    Every linear map of every block is projected, whatever the benchmark's targets; embeddings, norms, biases
    and the task's head get plain AdamW. Only the optimiser's state is small: the trained and saved parameters
    are those of FFT.

    Attributes:
        rank: r of the projection.
        update_gap: T_g, optimiser steps between two refreshes of the projector; 500 is the authors' GLUE
            command.
        scale: factor on the mapped step; the authors' GLUE runs have 2 at rank 8 and 4 at rank 4.
    """

    label: ClassVar[str] = "GaLore"
    citation: ClassVar[str] = (
        "Zhao et al., GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection (ICML 2024)"
    )
    projector: ClassVar[Literal["svd", "gaussian"]] = "svd"

    name: Literal["galore"] = "galore"  # type: ignore[assignment]
    rank: int = Field(default=8, gt=0)
    update_gap: int = Field(default=500, gt=0)
    scale: float = Field(default=2.0, gt=0)

    def optimizer_numbers(self, linears: Sequence[LinearShape], trained: int) -> int:
        """Two moments of rank x longer side for a projected weight, and the projector if it is stored."""
        numbers = 2 * (trained - sum(linear.parameters for linear in linears))
        for linear in linears:
            shorter, longer = sorted((linear.out_features, linear.in_features))
            projector = shorter if self.projector == "svd" else 0
            numbers += min(self.rank, shorter) * (2 * longer + projector)
        return numbers

    def optimizer(self, model: nn.Module, settings: OptimizerSettings) -> Optimizer:
        import torch

        from repro.optimizers import ProjectedAdamW

        blocks = linear_shapes(model.config.to_dict())  # type: ignore[operator, union-attr]
        projected = [model.get_submodule(shape.name).weight for shape in blocks]
        known = set(map(id, projected))
        return ProjectedAdamW(
            [
                {"params": projected, "rank": self.rank},
                {"params": [parameter for parameter in model.parameters() if id(parameter) not in known]},
            ],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            update_gap=self.update_gap,
            scale=self.scale,
            projector=self.projector,
            # From torch's generator, so it follows the run's seed. Resuming restores it with the optimiser.
            seed=int(torch.randint(2**31, (), device="cpu")),
        )
