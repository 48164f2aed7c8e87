"""GPT-2's query, key and value maps as three modules.

GPT-2 has them in one matrix, `c_attn`, stored (in, 3 out). The LoRA paper's code adapts two thirds of it,
query and value, each with its own factors. As separate modules every method can target them by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SplitAttentionInput(nn.Module):
    """Three linear maps, each (out, in), that together compute the same as the fused one."""

    def __init__(self, fused: nn.Module) -> None:
        """`fused` is transformers' Conv1D with a weight (in, 3 out) and a bias (3 out)."""
        super().__init__()
        weights = fused.weight.detach().T.chunk(3)  # type: ignore[operator]
        biases = fused.bias.detach().chunk(3)  # type: ignore[operator]
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., 3 out): query, key and value side by side."""
        return torch.cat([self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)], dim=-1)


def split_attention_inputs(model: nn.Module) -> None:
    """Replace every block's `c_attn` by a `SplitAttentionInput`, in place."""
    for module in list(model.modules()):
        if hasattr(module, "c_attn"):
            module.c_attn = SplitAttentionInput(module.c_attn)  # type: ignore[arg-type]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.contiguous())
    linear.bias = nn.Parameter(bias.clone())
    return linear
