"""Configuration of Dual LoRA: the paper's method, its ablations, and the choices that the paper leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig, PeftType
from peft.utils.other import get_pattern_key

from .terms import Rule

_CHOICES = {
    "magnitude_activation": ("relu", "abs", "sigmoid", "identity"),
    "direction": ("sign", "identity", "fixed"),
    "sign_estimator": ("ste", "xnor", "dorefa"),
    "clip": ("eq7", "eq12", "bnn", "none"),
    "warmup": ("ramp", "none", "subtract_initial"),
    "bias": ("none", "all", "dual_lora_only"),
}


@dataclass
class DualLoraConfig(PeftConfig):
    """dW = s * activation(B A) * direction(D C), element by element, on each targeted linear layer.

    The defaults are the method of arXiv 2512.03402. What the paper does not say is marked *open*.

    Args:
        magnitude_rank: r1, the rank of A and B.
        direction_rank: r2, that of C and D; None means r1. A fixed direction has no such group: None or 0.
        alpha: s = alpha / sqrt(r1 r2), or alpha / r1 where the direction is fixed. *Open*: 32 gives s = 2 at
            ranks of 16, as the alpha = 2 r of the LoRA baselines does.
        magnitude_activation: `relu`; `abs` and `sigmoid` are Table 6's, `identity` belongs to Table 5.
        direction: `sign`; of Table 5, `identity` is D C itself and `fixed` a random mask of -1 and 1 that
            does not train and is saved as a seed.
        sign_estimator: `ste`; `xnor` (Eq. 13) and `dorefa` (Eq. 14) of Table 3 scale the sign.
        clip: what the straight-through estimator clips: `eq7`, `eq12`, `bnn` or `none`, see
            `dual_lora_linear`. None means `eq7` where there is a clip to choose, for a sign under `ste`, and
            `none` elsewhere. Under the loss scaling of fp16 training `eq7` and `eq12` clip the scaled
            gradient: train in bf16 or fp32.
        init_std: every factor starts as N(0, init_std^2), drawn from torch's global generator. *Open*.
        warmup: how dW starts small, which Gaussian factors do not do by themselves. *Open*. `ramp` multiplies
            dW by min(1, (t + 1) / warmup_steps) after t optimiser steps, in training mode; evaluated or
            merged, dW is whole. `none` accepts the jump. `subtract_initial` uses dW - dW(0), everywhere and
            for good.
        warmup_steps: of the ramp. *Open*: 100 is the warm-up of the learning rate in the baselines.
        dropout: only 0, because dW is part of the weight: no branch has an input to drop from.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as in LoRA.
        bias: which biases train: `none`, `all`, or `dual_lora_only` for those of the adapted layers.
        rank_pattern: {layer name or regular expression: (r1, r2)} for layers of other ranks.
        alpha_pattern: {layer name or regular expression: alpha} likewise.
    """

    magnitude_rank: int = 16
    direction_rank: int | None = None
    alpha: float = 32.0
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    magnitude_activation: Literal["relu", "abs", "sigmoid", "identity"] = "relu"
    direction: Literal["sign", "identity", "fixed"] = "sign"
    sign_estimator: Literal["ste", "xnor", "dorefa"] = "ste"
    clip: Literal["eq7", "eq12", "bnn", "none"] | None = None
    init_std: float = 0.02
    warmup: Literal["ramp", "none", "subtract_initial"] = "ramp"
    warmup_steps: int = 100
    dropout: float = 0.0
    modules_to_save: list[str] | None = None
    bias: Literal["none", "all", "dual_lora_only"] = "none"
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, tuple[int, int]] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("DUAL_LORA")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if self.clip is None:
            self.clip = "eq7" if self.direction == "sign" and self.sign_estimator == "ste" else "none"
        if self.direction_rank is None:
            self.direction_rank = 0 if self.direction == "fixed" else self.magnitude_rank
        self._check_variant()
        self._check_numbers()
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                _check(
                    name,
                    getattr(self, name),
                    getattr(self, name) is None,
                    "None where target_modules is a string",
                )

    @property
    def rule(self) -> Rule:
        """The part of this configuration that decides the update."""
        return Rule(self.magnitude_activation, self.direction, self.sign_estimator, self.clip or "none")

    def ranks_and_alpha(self, layer_name: str) -> tuple[tuple[int, int], float]:
        """(r1, r2) and alpha of the layer of that name, after the patterns."""
        r1, r2 = _match(self.rank_pattern, layer_name, (self.magnitude_rank, self.direction_rank))
        return (r1, r2), _match(self.alpha_pattern, layer_name, self.alpha)

    def _check_variant(self) -> None:
        for name, allowed in _CHOICES.items():
            _check(name, getattr(self, name), getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        if self.direction != "sign":
            reason = f"'ste' with direction={self.direction!r}, which has no sign to estimate"
            _check("sign_estimator", self.sign_estimator, self.sign_estimator == "ste", reason)
            _check("clip", self.clip, self.clip == "none", f"'none' with direction={self.direction!r}")
        if self.sign_estimator != "ste":
            reason = f"'none' with sign_estimator={self.sign_estimator!r}, whose gradient is not clipped"
            _check("clip", self.clip, self.clip == "none", reason)

    def _check_numbers(self) -> None:
        self._check_ranks("", self.magnitude_rank, self.direction_rank)
        for pattern, ranks in self.rank_pattern.items():
            name = f"rank_pattern[{pattern!r}]"
            _check(
                name, ranks, isinstance(ranks, list | tuple) and len(ranks) == 2, "a pair of ranks, (r1, r2)"
            )
            self._check_ranks(f"{name}: ", *ranks)
        _check("alpha", self.alpha, self.alpha > 0, "greater than 0")
        for pattern, alpha in self.alpha_pattern.items():
            _check(f"alpha_pattern[{pattern!r}]", alpha, alpha > 0, "greater than 0")
        _check("init_std", self.init_std, self.init_std > 0, "greater than 0")
        _check(
            "warmup_steps", self.warmup_steps, self.warmup_steps >= 1, "1 or more; warmup='none' is no ramp"
        )
        _check(
            "dropout",
            self.dropout,
            self.dropout == 0,
            "0: dW is part of the weight, it has no input of its own",
        )

    def _check_ranks(self, where: str, r1: Any, r2: Any) -> None:
        _check(f"{where}magnitude_rank", r1, isinstance(r1, int) and r1 >= 1, "an integer of 1 or more")
        if self.direction == "fixed":
            _check(
                f"{where}direction_rank",
                r2,
                r2 == 0,
                "0 or None with direction='fixed', which has no factors",
            )
        else:
            _check(f"{where}direction_rank", r2, isinstance(r2, int) and r2 >= 1, "an integer of 1 or more")


def _match(patterns: dict[str, Any], layer_name: str, default: Any) -> Any:
    return patterns.get(get_pattern_key(list(patterns), layer_name), default)


def _check(name: str, value: Any, valid: bool, allowed: str) -> None:
    if not valid:
        raise ValueError(f"Dual LoRA: {name}={value!r} is not possible, it must be {allowed}.")
