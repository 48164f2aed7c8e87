"""Dual LoRA in a parameter of any module, such as the stacked weights of a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from .layer import DualLoraLayer
from .replaced import call_with
from .terms import Update
from .update import delta_weight, dual_lora_weight, updated_weight


class ParamWrapper(DualLoraLayer):
    """A module whose parameter `parameter_name` has Dual LoRA while the module runs.

    The parameter is (d, k), or (E, d, k) for E experts; (E, k, d) if the module has a true `is_transposed`.
    Each expert has factors, a seed and a dW of its own. A module with several such parameters is wrapped
    once for each. peft finds wrappers by the name of this class.
    """

    def __init__(self, base_layer: nn.Module, *args: Any, parameter_name: str, **kwargs: Any) -> None:
        self.parameter_name = parameter_name
        super().__init__(base_layer, *args, **kwargs)

    @property
    def weight(self) -> Tensor:
        """The wrapped parameter, without dW."""
        parameter: Tensor = getattr(self.get_base_layer(), self.parameter_name)
        return parameter

    def get_base_weight(self) -> Tensor:
        return self.weight.data

    def set_base_weight(self, weight_data: Tensor) -> None:
        self.weight.data = weight_data

    def matrix_shape(self, layer: Any) -> tuple[int, int]:
        shape = self.weight.shape
        if len(shape) not in (2, 3):
            raise ValueError(
                f"{self.parameter_name} of a {type(layer).__name__} has shape {tuple(shape)}: Dual LoRA "
                "adapts parameters of two dimensions, or of three with the experts first."
            )
        self.experts = tuple(shape[:-2])
        self.transposed = len(shape) == 3 and bool(getattr(layer, "is_transposed", False))
        d, k = reversed(shape[-2:]) if self.transposed else shape[-2:]
        return d, k

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.mT if self.transposed else weight

    def stored(self, matrix: Tensor) -> Tensor:
        return self.matrix(matrix)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                f"adapter_names is not possible with target_parameters: the rows that {self.parameter_name} "
                "sees are tokens sent to experts, not examples."
            )
        return super().forward(x, *args, **kwargs)

    def forward_with(self, adapter_names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not adapter_names:
            return self.base_layer(x, *args, **kwargs)
        self.check_whole()
        weight = self._by_expert(dual_lora_weight, self.weight, self.active_updates(adapter_names))
        path, module = self.parameter_name, self.base_layer
        while isinstance(module, ParamWrapper):
            path, module = f"base_layer.{path}", module.base_layer
        output: Tensor = call_with(self.base_layer, path, weight, (x, *args), kwargs)
        return output

    def get_delta_weight(self, adapter: str) -> Tensor:
        def delta(_: Tensor, updates: list[Update]) -> Tensor:
            return reduce(torch.add, map(delta_weight, updates))

        return self._by_expert(delta, self.weight, self.updates(adapter))

    def updated_weight(self, weight: Tensor, adapter_names: list[str]) -> Tensor:
        updates = [update for name in adapter_names for update in self.updates(name)]
        return self._by_expert(updated_weight, weight, updates)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The module without its wrappers, after merging them all if asked; called by peft."""
        wrapper: Any = self
        while isinstance(wrapper, ParamWrapper):
            if merge:
                wrapper.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            wrapper = wrapper.base_layer
        module: nn.Module = wrapper
        return module

    def _by_expert(
        self, function: Callable[[Tensor, list[Update]], Tensor], weight: Tensor, updates: Sequence[Update]
    ) -> Tensor:
        """`function(weight, updates)` of each expert's matrix and updates, stored as the parameter is."""
        matrix = self.matrix(weight)
        if not self.experts:
            return self.stored(function(matrix, list(updates)))
        return self.stored(
            torch.stack([function(W, [_expert(u, e) for u in updates]) for e, W in enumerate(matrix)])
        )

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.parameter_name}, ", 1)


def _expert(update: Update, expert: int) -> Update:
    of_experts = (update.A, update.B, update.C, update.D, update.seed)
    A, B, C, D, seed = (None if tensor is None else tensor[expert] for tensor in of_experts)
    assert A is not None and B is not None
    return update._replace(A=A, B=B, C=C, D=D, seed=seed)
