"""Dual LoRA: dW = s * ReLU(B A) * Sign(D C), elementwise, a magnitude and a direction for every weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from repro.config import added
from repro.methods.base import AdapterCost
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn

    from repro.adapters.dual_lora import DualLoraConfig
    from repro.models.shapes import LinearShape


Clip = Literal["eq7", "eq12", "bnn", "none"]

# Numbers in a block of the update on a GPU, in torch and in the Triton kernels: copies of constants in files
# that import torch and Triton.
_TORCH_BLOCK, _KERNEL_BLOCK = 2**23, 2**28

# Settings of the training and the evaluation, which the tuner's configuration does not have.
_NOT_THE_TUNERS = {"name", "freeze_direction_after", "freeze_magnitude", "evaluation_mask"}


def _direction_rank(settings: dict[str, Any]) -> int:
    return 0 if settings.get("direction") == "fixed" else settings.get("magnitude_rank", 0)


def _alpha(settings: dict[str, Any]) -> float:
    r1, r2 = settings.get("magnitude_rank", 0), settings.get("direction_rank", 0)
    return float(r1 + (r2 or r1))


def _clip(settings: dict[str, Any]) -> Clip:
    trained_sign = settings.get("direction") == "sign" and settings.get("sign_estimator") == "ste"
    return "eq7" if trained_sign else "none"


class DualLoRA(PeftMethod):
    """The paper's method. `repro.adapters.dual_lora.DualLoraConfig` explains each choice.

    Attributes:
        magnitude_rank, direction_rank: r1 of A and B, r2 of C and D. Together they train as much as LoRA at
            rank r1 + r2; the paper pairs its rows like that (LoRA 32 with 16 and 16).
        alpha: s = alpha / sqrt(r1 r2). The paper gives none. The default, r1 + r2 (2 r1 for a fixed
            direction), means s = 2 at equal ranks, as in the LoRA baselines, and is constant in Figure 2. At
            r 8, no alpha from 1 to 32 was clearly better on held-out records (experiments/sweeps/alpha.yaml).
        magnitude_activation, direction, sign_estimator, clip: the paper's, and those of Tables 3, 5 and 6.
        init_std: all four factors start as N(0, init_std^2). The paper gives none. With 0.02, r 16 and s 2,
            dW has a tenth of the root mean square of W0; with 1 / r it would exceed W0.
        warmup, warmup_steps: how dW grows from near zero, in optimiser steps. The paper gives no number; 100
            is the learning-rate warm-up of the recipes it follows.
        freeze_direction_after: share of the optimiser steps after which C and D are no longer updated, in
            whole steps and at least one. 0 never trains them: dW keeps the signs of the random start. They
            then count as no trained parameters; otherwise they do, since they were. None trains them always.
        freeze_magnitude: whether A and B stay as they were drawn, so that only C and D learn. They are
            then not counted.
        evaluation_mask: above 0, nothing is trained: the run evaluates the adapter of the same run without
            this setting, a fixed direction's, under another random mask. Each number is another draw.
    """

    label: ClassVar[str] = "Dual LoRA"
    citation: ClassVar[str] = (
        "Dual LoRA: Enhancing LoRA with Magnitude and Direction Updates (arXiv 2512.03402)"
    )

    name: Literal["dual_lora"] = "dual_lora"
    direction: Literal["sign", "identity", "fixed"] = "sign"
    magnitude_activation: Literal["relu", "abs", "sigmoid", "identity"] = "relu"
    sign_estimator: Literal["ste", "xnor", "dorefa"] = "ste"
    magnitude_rank: int = Field(default=16, gt=0)
    direction_rank: int = Field(default_factory=_direction_rank, ge=0)
    alpha: float = Field(default_factory=_alpha, gt=0)
    clip: Clip = Field(default_factory=_clip)
    init_std: float = Field(default=0.02, gt=0)
    warmup: Literal["ramp", "none", "subtract_initial"] = "ramp"
    warmup_steps: int = Field(default=100, gt=0)
    freeze_direction_after: float | None = added(None, ge=0, lt=1)
    freeze_magnitude: bool = added(False)
    evaluation_mask: int = added(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> DualLoRA:
        if (self.direction == "fixed") != (self.direction_rank == 0):
            raise ValueError(
                f"direction_rank {self.direction_rank} does not fit direction {self.direction!r}: "
                "it is 0 for a fixed direction, and only there"
            )
        if self.direction != "sign" and self.sign_estimator != "ste":
            raise ValueError(
                f"sign_estimator is {self.sign_estimator!r}, but direction {self.direction!r} has no sign"
            )
        if self.clip != "none" and _clip(self.model_dump()) == "none":
            raise ValueError(f"clip is {self.clip!r}, but only a sign under the estimator 'ste' is clipped")
        self._check_what_trains()
        return self

    def _check_what_trains(self) -> None:
        if self.direction == "fixed" and self.freeze_direction_after is not None:
            raise ValueError(
                f"freeze_direction_after is {self.freeze_direction_after}, but a fixed direction has no "
                "C and D to freeze; leave it out"
            )
        if self.freeze_magnitude and not self._trained_factors:
            raise ValueError(
                "freeze_magnitude is True, and the direction is not trained either; train one of them"
            )
        if self.evaluation_mask and self.direction != "fixed":
            raise ValueError(
                f"evaluation_mask is {self.evaluation_mask}, but direction {self.direction!r} has no random "
                "mask; it must be 0, or direction 'fixed'"
            )

    @property
    def _trained_factors(self) -> str:
        """The factors that are trained in some step."""
        learns_direction = self.direction != "fixed" and self.freeze_direction_after != 0
        return ("" if self.freeze_magnitude else "AB") + ("CD" if learns_direction else "")

    @property
    def printed_rank(self) -> int:
        return self.magnitude_rank

    @property
    def ranks(self) -> dict[str, int]:
        return {"magnitude_rank": self.magnitude_rank, "direction_rank": self.direction_rank}

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> DualLoraConfig:
        from repro.adapters.dual_lora import DualLoraConfig

        return DualLoraConfig(
            **self.model_dump(exclude=_NOT_THE_TUNERS), target_modules=list(targets), task_type=task_type
        )

    def build(self, model: nn.Module, config: PeftConfig) -> PeftModel:
        built = super().build(model, config)
        for factor in self._factors(built, set("ABCD").difference(self._trained_factors)):
            factor.requires_grad_(False)
        return built

    def held_still(self, model: nn.Module, step: int, steps: int) -> Sequence[nn.Parameter]:
        """C and D, once their share of the steps is over."""
        share = self.freeze_direction_after
        return [] if not share or step < max(1, round(share * steps)) else self._factors(model, "CD")

    def _factors(self, model: nn.Module, names: Iterable[str]) -> list[nn.Parameter]:
        layers: list[Any] = self.adapted_layers(model)
        return [f for layer in layers for name in names for f in getattr(layer, f"dual_lora_{name}").values()]

    @property
    def evaluates(self) -> DualLoRA | None:
        return self.model_copy(update={"evaluation_mask": 0}) if self.evaluation_mask else None

    def alter(self, model: nn.Module) -> None:
        """Replace every layer's random mask by another one."""
        layers: list[Any] = self.adapted_layers(model)
        for layer in layers:
            for name in layer.active_adapters:
                layer.draw_mask_anew(name, self.evaluation_mask)

    def layer_class(self) -> type:
        from repro.adapters.dual_lora import DualLoraLayer

        return DualLoraLayer

    def kernel(self, model: nn.Module) -> Literal["triton", "c", "torch"]:
        from repro.adapters.dual_lora import backend

        layers: list[Any] = self.adapted_layers(model)
        active = [(layer, name) for layer in layers for name in layer.active_adapters]
        rules = [layer.rule[name] for layer, name in active]
        factors = [factor for layer, name in active for factor in layer.factors(name).values()]
        return backend.choose(rules, factors).NAME

    def reused_weights(self, model: nn.Module) -> AbstractContextManager[None]:
        """W0 + dW of every adapted layer."""
        from repro.adapters.dual_lora import kept_weights

        return kept_weights(model)

    def adapter_parameters(self, shape: LinearShape) -> int:
        ranks = {"A": self.magnitude_rank, "C": self.direction_rank}
        trained = sum(rank for factor, rank in ranks.items() if factor in self._trained_factors)
        return trained * (shape.out_features + shape.in_features)

    def adapter_cost(self, shape: LinearShape, tokens: float) -> AdapterCost:
        """2 T d k + 8 (r1 + r2) d k, and 4 d k for a sign, on top of the frozen map's 4 T d k.

        The input is multiplied by W0 + dW, so with the tokens grows only the gradient of dW, 2 T d k. For
        each rank and weight the factors' products cost 2 forward, 2 to rebuild dW in the backward pass, and 4
        for the gradients of the factors. Those of frozen factors are computed with the others.
        """
        ranks = 8 * (self.magnitude_rank + self.direction_rank)
        if self.direction == "sign":
            ranks += 4 * (2 if self.warmup == "subtract_initial" else 1)  # one extra rank, for Sign(0)
        if self.warmup == "subtract_initial":
            ranks += 4 * (self.magnitude_rank + self.direction_rank)  # dW(0) is built but has no gradient
        if self.sign_estimator != "ste":
            ranks += 4 * self.direction_rank  # D C again in each pass, for its mean
        # In torch: M, S, and W0 before and after dW is added, for a W0 in bf16; for fp32 only three. In the
        # kernels: W0 + dW and G in bf16, and the parts of the gradients, 8 (r1 + r2) / 128 bytes a weight.
        parts = (self.magnitude_rank + self.direction_rank) / 64
        in_kernels = math.ceil((1 + parts) * min(_KERNEL_BLOCK, shape.parameters))
        blocks = max(4 * min(_TORCH_BLOCK, shape.parameters), in_kernels)
        # The signs of D C: a bit for each weight, where numbers are in bf16.
        signs = shape.parameters // 16 if self.direction == "sign" and self.clip != "bnn" else 0
        # Operations: of the backend in torch. Moved: from the time that the Triton kernels took more for a
        # larger weight on an H200, 0.21 ms for 2^24 numbers.
        flops = (2 * tokens + ranks) * shape.parameters
        return AdapterCost(
            flops,
            kept=signs,
            transient=blocks,
            operations=41,
            moved=60 * shape.parameters,
            reused=shape.parameters,
        )
