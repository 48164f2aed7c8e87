"""The configurations of our tuners that peft's tests are run with."""

from __future__ import annotations

from typing import Any, NamedTuple

from peft import PeftConfig

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.delta_lora import DeltaLoraConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.flora import FloraConfig
from repro.adapters.mora import MoraConfig

TUNERS: dict[str, type[PeftConfig]] = {
    "dual_lora": DualLoraConfig,
    "delta_lora": DeltaLoraConfig,
    "mora": MoraConfig,
    "flora": FloraConfig,
    "bottleneck": BottleneckConfig,
}


class Case(NamedTuple):
    """A tuner's settings for one of the small models that peft's tests of custom models define."""

    tuner: str
    name: str
    model: str
    settings: dict[str, Any]


_LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "one layer by regular expression": ("MLP", {"target_modules": "lin0"}),
    "the first layer": ("MLP", {"target_modules": ["lin0"]}),
    "the last layer": ("MLP", {"target_modules": ["lin1"]}),
    "two layers": ("MLP", {"target_modules": ["lin0", "lin1"]}),
    "beside a trained module": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
}
_CONV1D: dict[str, tuple[str, dict[str, Any]]] = {"Conv1D": ("EmbConv1D", {"target_modules": ["conv1d"]})}
# In layers this small, a dW of the usual start changes outputs by less than peft's tests look for.
_LARGE: dict[str, Any] = {"warmup": "none", "init_std": 0.5}
_OWN: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "dual_lora": {
        # With the ramp, three steps of peft's tests are too few to move all factors.
        "Conv1D": ("EmbConv1D", {"target_modules": ["conv1d"], "warmup": "none"}),
        "embedding": ("EmbConv1D", {"target_modules": ["emb"], **_LARGE}),
        "Conv2d": ("Conv2d", {"target_modules": ["conv2d"], **_LARGE}),
        "Conv1d": ("Conv1dBigger", {"target_modules": ["conv1d"], **_LARGE}),
        "without a ramp": ("MLP", {"target_modules": ["lin0"], "warmup": "none"}),
        "less its start": ("MLP", {"target_modules": ["lin0"], "warmup": "subtract_initial"}),
        "fixed direction": ("MLP", {"target_modules": ["lin0"], "direction": "fixed"}),
    },
    "flora": {"Conv1D": ("EmbConv1D", {"target_modules": ["conv1d"], "init_std": 0.2})},
    "mora": {"sharing": ("MLP", {"target_modules": ["lin0"], "compression": "sharing"})},
}
# Tuners that the suite runs with one of these cases; `make test-peft` runs all.
FEW = {"delta_lora", "mora", "flora", "bottleneck"}


def custom_cases(part: str) -> list[Case]:
    """The cases of peft's tests of custom models: `all`, or `few`."""
    cases = [
        Case(tuner, name, model, settings)
        for tuner in TUNERS
        for name, (model, settings) in (_LAYERS | _CONV1D | _OWN.get(tuner, {})).items()
    ]
    return [case for case in cases if part == "all" or case.tuner not in FEW or case.name == "two layers"]


def model_settings(tuner: str, task: str) -> dict[str, Any]:
    """Settings for a model of transformers: the default targets where the tuner has them for every model."""
    settings: dict[str, Any] = {"task_type": task, "target_modules": None}
    if tuner == "bottleneck":
        # Its defaults are for LLaMA alone. These are names of values; a larger start shows in outputs.
        settings["target_modules"] = ["v_proj", "value", "v", "value_proj", "in_proj", "c_attn"]
        settings["init_std"] = 0.2
    return settings
