"""Configuration of Dual LoRA: the paper's method, its ablations, and what the paper leaves open."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from peft import PeftType
from peft.utils.other import get_pattern_key

from ..targets import TargetConfig
from .rule import ALL_WORDS, Clip, Direction, MagnitudeActivation, Rule, SignEstimator

_CHOICES: dict[str, tuple[str, ...]] = {
    **ALL_WORDS._asdict(),
    "warmup": ("ramp", "none", "subtract_initial"),
    "bias": ("none", "all", "dual_lora_only"),
}


@dataclass
class DualLoraConfig(TargetConfig):
    """dW = s * activation(B A) * direction(D C), element by element, on the weight of each targeted layer.

    The defaults are the method of arXiv 2512.03402. *Open* marks what the paper does not say.

    Args:
        magnitude_rank: r1, the rank of A and B. None means 16.
        direction_rank: r2, the rank of C and D; None means r1. With a fixed direction there are no C and D:
            None or 0.
        alpha: s = alpha / sqrt(r1 r2), or alpha / r1 where the direction is fixed. *Open*: None means r1 + r2
            (2 r1 for a fixed direction), so s = 2 at equal ranks, like alpha = 2 r in the LoRA baselines.
            Layers in `rank_pattern` keep this alpha; see `alpha_pattern`.
        magnitude_activation: `relu`; `abs` and `sigmoid` (Table 6), `identity` (Table 5).
        direction: `sign`; in Table 5, `identity` is D C itself and `fixed` a random mask of -1 and 1, which
            does not train and is saved as a seed.
        sign_estimator: `ste`; `xnor` (Eq. 13) and `dorefa` (Eq. 14) of Table 3 scale the sign.
        clip: what the straight-through estimator clips: `eq7`, `eq12`, `bnn` or `none`, see
            `dual_lora_linear`. None means `eq7` for a sign under `ste`, else `none`. With the loss scaling of
            fp16, `eq7` and `eq12` would clip the scaled gradient: train in bf16 or fp32.
        init_std: every factor starts as N(0, init_std^2), drawn from torch's global generator. *Open*.
        init_weights: True is that start. False, for tests as in peft, draws each factor with the variance of
            a torch.nn.Linear, 1 / (3 fan-in), so that dW is as large as a weight. Neither makes dW zero; see
            `warmup`.
        warmup: how dW starts small, as Gaussian factors alone do not. *Open*. `ramp` multiplies dW by
            min(1, (t + 1) / warmup_steps) after t optimiser steps, in training mode; in evaluation and in
            merging dW has full strength. `none` accepts the jump. `subtract_initial` uses dW - dW(0) always.
        warmup_steps: length of the ramp. *Open*: 100 is the learning-rate warm-up of the baselines.
        dropout: only 0. dW is part of the weight, so there is no branch whose input could be dropped.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save: see
            `TargetConfig`.
        target_parameters: ends of the paths of parameters to adapt that are no layer's weight, such as the
            `experts.gate_up_proj` of a mixture of experts, as in LoRA; see `ParamWrapper`.
        bias: which biases train: `none`, `all`, or `dual_lora_only` for those of the adapted layers.
        rank_pattern: {layer name or regular expression: (r1, r2)} for layers with other ranks. An integer r
            means (r, r), or (r, 0) where the direction is fixed.
        alpha_pattern: {layer name or regular expression: alpha} for layers with another alpha.
        r: another name of `magnitude_rank`, as peft's tuners call it. Not saved.
    """

    magnitude_rank: int | None = None
    direction_rank: int | None = None
    alpha: float | None = None
    target_parameters: list[str] | None = None
    magnitude_activation: MagnitudeActivation = "relu"
    direction: Direction = "sign"
    sign_estimator: SignEstimator = "ste"
    clip: Clip | None = None
    init_std: float = 0.02
    init_weights: bool = True
    warmup: Literal["ramp", "none", "subtract_initial"] = "ramp"
    warmup_steps: int = 100
    dropout: float = 0.0
    bias: Literal["none", "all", "dual_lora_only"] = "none"
    rank_pattern: dict[str, int | tuple[int, int]] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    r: InitVar[int | None] = None

    def __post_init__(self, r: int | None) -> None:
        super().__post_init__()
        self.peft_type = PeftType("DUAL_LORA")
        if r is not None:
            allowed = f"the same as magnitude_rank={self.magnitude_rank!r}, of which it is another name"
            _check("r", r, self.magnitude_rank in (None, r), allowed)
            self.magnitude_rank = r
        if self.magnitude_rank is None:
            self.magnitude_rank = 16
        if self.clip is None:
            self.clip = "eq7" if self.direction == "sign" and self.sign_estimator == "ste" else "none"
        if self.direction_rank is None:
            self.direction_rank = 0 if self.direction == "fixed" else self.magnitude_rank
        self._check_variant()
        self._check_ranks("", self.magnitude_rank, self.direction_rank)
        if self.alpha is None:
            self.alpha = float(self.magnitude_rank + (self.direction_rank or self.magnitude_rank))
        self._check_numbers(self.alpha)

    @property
    def rule(self) -> Rule:
        """The fields that decide the update."""
        return Rule(self.magnitude_activation, self.direction, self.sign_estimator, self.clip or "none")

    def ranks_and_alpha(self, layer_name: str) -> tuple[tuple[int, int], float]:
        """(r1, r2) and alpha of the layer with that name, after the patterns."""
        ranks = _match(self.rank_pattern, layer_name, (self.magnitude_rank, self.direction_rank))
        return self._pair(ranks), _match(self.alpha_pattern, layer_name, self.alpha)

    def _pair(self, ranks: int | tuple[int, int]) -> tuple[int, int]:
        if isinstance(ranks, int):
            return ranks, 0 if self.direction == "fixed" else ranks
        r1, r2 = ranks
        return r1, r2

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

    def _check_numbers(self, alpha: float) -> None:
        for pattern, ranks in self.rank_pattern.items():
            name = f"rank_pattern[{pattern!r}]"
            valid = isinstance(ranks, int) or (isinstance(ranks, list | tuple) and len(ranks) == 2)
            _check(name, ranks, valid, "an integer or a pair of ranks, (r1, r2)")
            self._check_ranks(f"{name}: ", *self._pair(ranks))
        _check("alpha", alpha, alpha > 0, "greater than 0, or None for r1 + r2")
        for pattern, value in self.alpha_pattern.items():
            _check(f"alpha_pattern[{pattern!r}]", value, value > 0, "greater than 0")
        _check("init_std", self.init_std, self.init_std > 0, "greater than 0")
        _check("init_weights", self.init_weights, isinstance(self.init_weights, bool), "True or False")
        if self.warmup == "subtract_initial":
            reason = "True with warmup='subtract_initial', which starts at dW = 0"
            _check("init_weights", self.init_weights, self.init_weights, reason)
        _check(
            "warmup_steps",
            self.warmup_steps,
            self.warmup_steps >= 1,
            "1 or more; for no ramp set warmup='none'",
        )
        _check(
            "dropout",
            self.dropout,
            self.dropout == 0,
            "0: dW is part of the weight, so it has no input to drop",
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
