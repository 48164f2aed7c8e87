"""Memory of an optimiser's state between two steps, which GaLore and its successors reduce."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the optimiser's state; before its first step there are none."""
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def adamw_state_bytes(optimizer: Optimizer) -> int:
    """Bytes that AdamW would keep for the same parameters: two moments each, in the parameter's dtype."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return sum(2 * p.numel() * p.element_size() for p in parameters)
