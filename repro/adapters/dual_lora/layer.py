"""The layers that replace others under Dual LoRA: their base class, and the linear one."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.utils.other import transpose
from torch import Tensor, nn

from ..mergeable import MergeableLayer
from . import warmup
from .config import DualLoraConfig
from .kept import KeptWeight, KeptWeights
from .rule import Rule
from .terms import Update
from .update import delta_weight, dual_lora_linear, updated_weight


class DualLoraLayer(MergeableLayer):
    """The factors of a layer's adapters, and their scales, seeds and warm-up counters.

    Shapes, for a weight of (d, k) = (out, in): A (r1, k), B (d, r1), C (r2, k), D (d, r2).

    Attributes:
        experts: leading dimensions of a weight and of its factors, where each expert has its own.
    """

    experts: tuple[int, ...] = ()
    adapter_layer_names = ("dual_lora_A", "dual_lora_B", "dual_lora_C", "dual_lora_D")
    other_param_names = (
        "rule",
        "scaling",
        "warmup_steps",
        "dual_lora_step",
        "dual_lora_seed",
        "dual_lora_initial",
        "watches",
    )
    watches: dict[str, warmup.Watch]

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        ranks: tuple[int, int],
        alpha: float,
        config: DualLoraConfig,
        **kwargs: Any,
    ) -> None:
        super().__init__(base_layer, **kwargs)
        self.dual_lora_A = nn.ParameterDict()
        self.dual_lora_B = nn.ParameterDict()
        self.dual_lora_C = nn.ParameterDict()
        self.dual_lora_D = nn.ParameterDict()
        # Saved with the adapter: optimiser steps of a ramp, the seed of a fixed direction, the seed of dW(0).
        self.dual_lora_step = BufferDict(persistent=True)
        self.dual_lora_seed = BufferDict(persistent=True)
        self.dual_lora_initial = nn.ModuleDict()
        self.rule: dict[str, Rule] = {}
        self.scaling: dict[str, float] = {}
        self.warmup_steps: dict[str, int] = {}
        warmup.follow(self)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, ranks, alpha, config)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        warmup.follow(self)  # a copied or unpickled layer does not pass through __init__

    def update_layer(
        self, adapter_name: str, ranks: tuple[int, int], alpha: float, config: DualLoraConfig, **kwargs: Any
    ) -> None:
        """Add an adapter of ranks (r1, r2); r2 is 0 where the direction is fixed."""
        r1, r2 = ranks
        self.rule[adapter_name] = config.rule
        self.scaling[adapter_name] = alpha / (math.sqrt(r1 * r2) if r2 else r1)
        std = config.init_std if config.init_weights else None
        with self._draws():
            initial = InitialFactors(self.out_features, self.in_features, ranks, std, self.experts)
            if config.direction == "fixed":
                self.dual_lora_seed[adapter_name] = _draw_seed(self.experts)
        for name, factor in initial.factors().items():
            getattr(self, f"dual_lora_{name}")[adapter_name] = nn.Parameter(factor.clone())
        if config.warmup == "subtract_initial":
            self.dual_lora_initial[adapter_name] = initial
        elif config.warmup == "ramp":
            self.warmup_steps[adapter_name] = config.warmup_steps
            self.dual_lora_step[adapter_name] = torch.zeros((), dtype=torch.int64)
        self.finish_adapter(adapter_name)

    def draw_mask_anew(self, adapter_name: str, draw: int) -> None:
        """Replace the mask of a fixed direction by another one, independent of it.

        Args:
            draw: which one, from 1 on. With the present mask it decides the new one.

        Raises:
            ValueError: the adapter has no mask, or is merged.
        """
        if self.rule[adapter_name].direction != "fixed" or adapter_name in self.merged_adapters:
            state = "is merged; unmerge it first" if adapter_name in self.merged_adapters else "has no mask"
            raise ValueError(
                f"Dual LoRA: no mask can be drawn for the adapter {adapter_name!r}, which {state}."
            )
        seed: Tensor = self.dual_lora_seed[adapter_name]
        generator = torch.Generator().manual_seed((int(seed.sum()) + draw) % 2**63)
        drawn = torch.randint(2**62, seed.shape, generator=generator, device="cpu")
        self.dual_lora_seed[adapter_name] = drawn.to(seed.device)

    @property
    def _sharded(self) -> bool:
        return self.quantization_backend is None and hasattr(self.weight, "device_mesh")

    def _draws(self) -> AbstractContextManager[None]:
        """The factors are equal on all processes that share a weight."""
        if not self._sharded:
            return nullcontext()
        from .sharding import equal_draws

        return equal_draws(self.weight)

    def factors(self, adapter_name: str) -> dict[str, Tensor]:
        """A, B, C and D by name; only A and B where the direction is fixed."""
        # Past `ParameterDict`, whose lookups in all layers took a tenth of the Python of a pass.
        groups: Any = self._modules
        found = {name: groups[f"dual_lora_{name}"]._parameters.get(adapter_name) for name in "ABCD"}
        return {name: factor for name, factor in found.items() if factor is not None}

    def updates(self, adapter_name: str, ramped: bool = False) -> list[Update]:
        """The updates that sum to the adapter's dW: at full strength or, if `ramped`, as in its warm-up."""
        rule, scale = self.rule[adapter_name], self.scaling[adapter_name]
        seed = self.dual_lora_seed[adapter_name] if rule.direction == "fixed" else None
        factors: dict[str, Any] = self.factors(adapter_name)
        update = Update(rule, scale, **factors, seed=seed)
        if ramped and adapter_name in self.dual_lora_step:
            warmup.compare_values(self, adapter_name)
            step, warmup_steps = self.dual_lora_step[adapter_name], self.warmup_steps[adapter_name]
            update = update._replace(step=step, warmup_steps=warmup_steps)
        if adapter_name not in self.dual_lora_initial:
            return [update]
        initial: Any = self.dual_lora_initial[adapter_name]
        return [update, Update(rule, -scale, **initial.factors(), seed=seed)]

    def active_updates(self, adapter_names: list[str]) -> list[Update]:
        """The updates of these adapters in a forward pass: ramped in training."""
        return [update for name in adapter_names for update in self.updates(name, ramped=self.training)]

    def matrix(self, weight: Tensor) -> Tensor:
        """(d, k) of a weight as the base layer stores it."""
        return transpose(weight, self.fan_in_fan_out)

    def stored(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        return transpose(matrix, self.fan_in_fan_out)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """dW at full strength, in fp32, stored as the base layer's weight is."""
        return self.stored(reduce(torch.add, map(delta_weight, self.updates(adapter))))

    def updated_weight(self, weight: Tensor, adapter_names: list[str]) -> Tensor:
        updates = [update for name in adapter_names for update in self.updates(name)]
        return self.stored(updated_weight(self.matrix(weight), updates))

    def __repr__(self) -> str:
        return "dual_lora." + super().__repr__()


class InitialFactors(nn.Module):
    """The factors of step 0, drawn from one seed. Only the seed is saved; loading it draws them again.

    Their standard deviation is `std`; None means that of a torch.nn.Linear's weight, by each factor's fan-in.
    """

    seed: Tensor

    def __init__(
        self, d: int, k: int, ranks: tuple[int, int], std: float | None, experts: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        r1, r2 = ranks
        shapes = {"A": (r1, k), "B": (d, r1)} | ({"C": (r2, k), "D": (d, r2)} if r2 else {})
        self.shapes = {name: (*experts, *shape) for name, shape in shapes.items()}
        self.std = std
        self.register_buffer("seed", _draw_seed())
        self._draw(torch.float32)

    def factors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.shapes}

    def _draw(self, dtype: torch.dtype) -> None:
        # On the CPU: its generator gives the same numbers on every machine that loads the adapter.
        generator = torch.Generator().manual_seed(int(self.seed))
        for name, shape in self.shapes.items():
            std = (3 * shape[-1]) ** -0.5 if self.std is None else self.std
            factor = torch.randn(shape, generator=generator, device="cpu") * std
            self.register_buffer(name, factor.to(self.seed.device, dtype), persistent=False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._draw(self.factors()["A"].dtype)


def _draw_seed(shape: tuple[int, ...] = ()) -> Tensor:
    return torch.randint(2**62, shape, device="cpu")


class Linear(DualLoraLayer):
    """A linear layer (quantised or not) or transformers' Conv1D with Dual LoRA in its weight."""

    kept_weights: KeptWeights | None = None  # while `kept.kept_weights` keeps them

    def forward_with(self, adapter_names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not adapter_names:
            return self.base_layer(x, *args, **kwargs)
        base: Any = self.get_base_layer()
        updates = self.active_updates(adapter_names)
        kept = self._kept_weight(adapter_names)
        if self.quantization_backend is not None:
            return dual_lora_linear(x, self.get_base_weight, base.bias, updates, kept)
        if hasattr(base.weight, "device_mesh"):
            # Imported here: only builds of torch with torch.distributed have a DTensor.
            from .sharding import sharded_linear

            return sharded_linear(base, x, updates)
        return dual_lora_linear(x, self.matrix(base.weight), base.bias, updates, kept)

    def _kept_weight(self, adapter_names: list[str]) -> KeptWeight | None:
        if self.kept_weights is None or torch.compiler.is_compiling():
            return None
        tensors = [self.weight, *(factor for name in adapter_names for factor in self.factors(name).values())]
        tensors += [step for name, step in self.dual_lora_step.items() if name in adapter_names]
        return self.kept_weights.place((*adapter_names, self.training), tensors)

    def updated_weight(self, weight: Tensor, adapter_names: list[str]) -> Tensor:
        if not self._sharded:
            return super().updated_weight(weight, adapter_names)
        from .sharding import sharded_weight

        with torch.no_grad():
            updates = [update for name in adapter_names for update in self.updates(name)]
            return sharded_weight(weight, updates)  # type: ignore[arg-type]

    def set_base_weight(self, weight_data: Tensor) -> None:
        """Put these values into the base weight."""
        if self._sharded:
            # Assigning to `.data` would leave a DTensor's shard as it was.
            layer: Any = self.get_base_layer()
            layer.weight = nn.Parameter(weight_data, layer.weight.requires_grad)
        else:
            super().set_base_weight(weight_data)
