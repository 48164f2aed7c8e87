"""The ranks of Figure 3: rank of a weight update, layer by layer.

The paper counts singular values above a tolerance that it does not give. Here it is the default of numpy and
torch, max(d, k) * eps * s_1, in float64. In float32 the product's rounding error alone has full rank, and the
tolerance is so large that a full-rank 2048 x 2048 matrix counted 2045.

The count ignores the size of singular values, so two more measures are given: stable rank ||M||_F^2 / s_1^2
(Rudelson and Vershynin 2007) and effective rank exp(H(s / sum s)), H the entropy (Roy and Vetterli 2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from repro.adapters.dual_lora import Rule, Update
from repro.adapters.dual_lora.layer import DualLoraLayer
from repro.adapters.dual_lora.update import magnitude_and_direction
from repro.adapters.weight_update import updated_layers, weight_update
from repro.config import ConfigError
from repro.runs.known_ranks import Rank

# Number of evenly spaced points, from the first to the last singular value, in a stored spectrum.
_SPECTRUM = 17


def rank(matrix: Tensor, layer: str = "", part: str = "update") -> Rank:
    """The ranks of a (d, k) matrix, computed in float64."""
    shape = (matrix.shape[0], matrix.shape[1])
    values = torch.linalg.svdvals(matrix.double())
    largest = float(values[0])
    if largest == 0:
        nothing = (0.0,) * _SPECTRUM
        return Rank(layer=layer, part=part, shape=shape, numerical=0, stable=0, effective=0, spectrum=nothing)
    tolerance = max(shape) * torch.finfo(torch.float64).eps * largest
    shares = values / values.sum()
    places = torch.linspace(0, len(values) - 1, _SPECTRUM).round().long()
    return Rank(
        layer=layer,
        part=part,
        shape=shape,
        numerical=int((values > tolerance).sum()),
        stable=float((values**2).sum() / largest**2),
        effective=float(torch.special.entr(shares).sum().exp()),
        spectrum=tuple(round(float(value), 5) for value in values[places] / largest),
    )


def ranks(model: nn.Module) -> Iterator[Rank]:
    """The ranks of every adapted layer's update, with one update in memory at a time.

    Raises:
        ConfigError: no layer of the model adds an update to its weight.
    """
    found = False
    for path, layer in updated_layers(model):
        found = True
        for part, matrix in _parts(layer).items():
            yield rank(matrix, path, part)
    if not found:
        raise ConfigError("no layer of this model adds an update to its weight; analyse LoRA or Dual LoRA")


def random_update(size: int, r: int, seed: int = 0) -> Iterator[Rank]:
    """The ranks of an untrained Dual LoRA update of shape (size, size) with r1 = r2 = `r`.

    Factors are standard normal: their standard deviation only scales the matrices and changes no rank.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    A, B, C, D = (normal(*shape) for shape in [(r, size), (size, r), (r, size), (size, r)])
    update = Update(Rule(), 1.0, A, B, C, D)
    for part, matrix in _dual_parts(update).items():
        yield rank(matrix, f"random.{size}x{size}", part)


def _parts(layer: Any) -> dict[str, Tensor]:
    """The update in float64; for Dual LoRA also its magnitude and direction."""
    doubled = deepcopy(layer).double()
    if isinstance(doubled, DualLoraLayer):
        (adapter,) = doubled.active_adapters
        terms = doubled.updates(adapter)
        if len(terms) == 1:
            return _dual_parts(terms[0])
    return {"update": weight_update(doubled)}


def _dual_parts(update: Update) -> dict[str, Tensor]:
    magnitude, direction = magnitude_and_direction(update)
    return {"update": magnitude * direction, "magnitude": magnitude, "direction": direction}
