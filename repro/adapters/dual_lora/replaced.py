"""Calls a module with another weight in the place of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_with(module: nn.Module, name: str, weight: Tensor, args: tuple[Any, ...], kwargs: Any = None) -> Any:
    """The output of `module` where its parameter `name`, a path from the module, is `weight`."""
    path, _, last = name.rpartition(".")
    owner = vars(module.get_submodule(path))
    if last not in owner:
        return functional_call(module, {name: weight}, args, kwargs)
    # FSDP1 sets the unsharded weight as an attribute. It hides the registered parameter, which is what
    # functional_call replaces.
    before, owner[last] = owner[last], weight
    try:
        return module(*args, **(kwargs or {}))
    finally:
        owner[last] = before
