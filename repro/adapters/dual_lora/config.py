"""Configuration of Dual LoRA: the paper's method, its ablations, and the choices that the paper leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig, PeftType

from .update import Rule

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
    """dW = s * activation(B A) * direction(D C), element by element, on each targeted linear layer (arXiv 2512.03402).

    The defaults are the paper's method. What the paper does not say is marked *open*.

    Args:
        magnitude_rank: r1, the rank of A and B.
        direction_rank: r2, the rank of C and D. None means r1. With a fixed direction there is no such group: None or 0.
        alpha: s = alpha / sqrt(r1 r2), and alpha / r1 where the direction is fixed. *Open*: with r1 = r2 = r the default
            of 32 gives s = 2 at r = 16, the alpha = 2r of the LoRA baselines.
        magnitude_activation: `relu`; `abs` and `sigmoid` are those of Table 6, `identity` belongs to Table 5.
        direction: `sign`; of Table 5, `identity` is D C itself and `fixed` a random mask of -1 and 1 that no training
            changes, saved as a seed.
        sign_estimator: `ste`; `xnor` (Eq. 13) and `dorefa` (Eq. 14) scale the sign, see Table 3.
        clip: what the straight-through estimator clips: `eq7`, `eq12`, `bnn` or `none`, see `dual_lora_linear`. None
            means `eq7` where there is a clip to choose, that is for a sign under `ste`, and `none` elsewhere. Under the
            loss scaling of fp16 training `eq7` and `eq12` clip the scaled gradient: train in bf16 or fp32.
        init_std: every factor starts as N(0, init_std^2), from torch's global generator. *Open*.
        warmup: how dW starts near zero, which Gaussian factors do not do by themselves. *Open*. `ramp` multiplies dW by
            min(1, (t + 1) / warmup_steps) at training step t, and by 1 in eval mode, in a merge and once saved; `none`
            accepts the jump; `subtract_initial` uses dW - dW(0), everywhere and for good.
        warmup_steps: of the ramp. *Open*: 100 is the learning rate's warm-up in the paper's baselines.
        dropout: only 0. dW is part of the weight, so there is no branch whose input could be dropped.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as in peft's LoRA.
        bias: which biases train: `none`, `all`, or `dual_lora_only` for those of the adapted layers.
        rank_pattern: {layer name or regular expression: (r1, r2)} for layers with other ranks.
        alpha_pattern: the same for alpha.
    """

    magnitude_rank: int = 16
    direction_rank: int | None = None
    alpha: float = 32.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
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
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))

        trains_sign = self.direction == "sign" and self.sign_estimator == "ste"
        if self.clip is None:
            self.clip = "eq7" if trains_sign else "none"
        for name, allowed in _CHOICES.items():
            _check(name, getattr(self, name), getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        _check(
            "sign_estimator",
            self.sign_estimator,
            self.direction == "sign" or self.sign_estimator == "ste",
            f"left at 'ste': direction={self.direction!r} has no sign to estimate",
        )
        _check(
            "clip",
            self.clip,
            trains_sign or self.clip == "none",
            f"left out: direction={self.direction!r} under sign_estimator={self.sign_estimator!r} is not clipped",
        )

        if self.direction_rank is None:
            self.direction_rank = 0 if self.direction == "fixed" else self.magnitude_rank
        self._check_ranks("", self.magnitude_rank, self.direction_rank)
        for pattern, ranks in self.rank_pattern.items():
            name = f"rank_pattern[{pattern!r}]"
            _check(name, ranks, isinstance(ranks, list | tuple) and len(ranks) == 2, "two ranks, (r1, r2)")
            self._check_ranks(f"{name} ", *ranks)
        _check("alpha", self.alpha, self.alpha > 0, "greater than 0")
        for pattern, alpha in self.alpha_pattern.items():
            _check(f"alpha_pattern[{pattern!r}]", alpha, alpha > 0, "greater than 0")
        _check("init_std", self.init_std, self.init_std > 0, "greater than 0")
        _check("warmup_steps", self.warmup_steps, self.warmup_steps >= 1, "at least 1; for no ramp set warmup='none'")
        _check("dropout", self.dropout, self.dropout == 0, "0: dW is part of the weight and has no input to drop from")
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                value = getattr(self, name)
                _check(name, value, value is None, "left out where target_modules is a string")

    @property
    def rule(self) -> Rule:
        """What of this configuration decides the update."""
        return Rule(self.magnitude_activation, self.direction, self.sign_estimator, self.clip or "none")

    def _check_ranks(self, where: str, r1: Any, r2: Any) -> None:
        _check(f"{where}magnitude_rank", r1, isinstance(r1, int) and r1 >= 1, "an integer of at least 1")
        if self.direction == "fixed":
            _check(f"{where}direction_rank", r2, r2 == 0, "0 or left out: a fixed direction has no factors")
        else:
            _check(f"{where}direction_rank", r2, isinstance(r2, int) and r2 >= 1, "an integer of at least 1")


def _check(name: str, value: Any, valid: bool, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{name}={value!r} is not possible for Dual LoRA: it must be {allowed}.")
