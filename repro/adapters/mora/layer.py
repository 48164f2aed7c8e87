"""The layer that replaces a linear one under MoRA."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.adapters.additive import AdditiveLayer
from repro.adapters.mora.config import MoraConfig, square_side


class MoraLayer(AdditiveLayer):
    """A linear layer plus decompress(M compress(x)), with a square M that starts at zero."""

    mora_M: nn.ParameterDict
    adapter_layer_names = ("mora_M",)

    def initial_parameters(self, config: MoraConfig) -> tuple[Tensor]:
        side = square_side(self.out_features, self.in_features, config.rank, config.compression)
        return (torch.zeros(side, side),)

    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        compression = self.adapter_config[adapter_name].compression
        return mora(x, self.mora_M[adapter_name], self.out_features, compression)


def mora(x: Tensor, M: Tensor, out_features: int, compression: str) -> Tensor:
    """decompress(M compress(x)), of shape (..., out_features).

    The input is split into groups as long as M's side; the last is filled up from the start of the input.
    `sharing` applies M to the sum of the groups. `rotation` rotates group t by the rotary-embedding angles of
    position t, applies M to each and concatenates. The result is cut or repeated to `out_features`.
    """
    side = M.shape[0]
    groups = math.ceil(x.shape[-1] / side)
    x = _cycle(x, groups * side).unflatten(-1, (groups, side))
    if compression == "sharing":
        return _cycle(F.linear(x.sum(-2), M), out_features)
    cos, sin = _rotations(groups, side, x)
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return _cycle(F.linear(rotated, M).flatten(-2), out_features)


def _rotations(groups: int, side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of t * 10000^(-2i / side) for group t and pair i, both (groups, side / 2)."""
    frequencies = 10000.0 ** (-torch.arange(0, side, 2, device=like.device) / side)
    angles = torch.outer(torch.arange(groups, device=like.device), frequencies)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _cycle(x: Tensor, length: int) -> Tensor:
    """The first `length` entries of x repeated along its last dimension."""
    times, rest = divmod(length, x.shape[-1])
    return torch.cat([x] * times + [x[..., :rest]], dim=-1)
