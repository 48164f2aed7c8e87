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
_OWN: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "dual_lora": {
        "without a ramp": ("MLP", {"target_modules": ["lin0"], "warmup": "none"}),
        "less its start": ("MLP", {"target_modules": ["lin0"], "warmup": "subtract_initial"}),
        "fixed direction": ("MLP", {"target_modules": ["lin0"], "direction": "fixed"}),
    },
    "mora": {"sharing": ("MLP", {"target_modules": ["lin0"], "compression": "sharing"})},
}
CUSTOM = [
    Case(tuner, name, model, settings)
    for tuner in TUNERS
    for name, (model, settings) in (
        _LAYERS | ({} if tuner == "bottleneck" else _CONV1D) | _OWN.get(tuner, {})
    ).items()
]


def model_settings(tuner: str, task: str) -> dict[str, Any]:
    """Settings for a model of transformers: the default targets where the tuner has them for every model."""
    # Queries, by their names in the models. The bottleneck's defaults are for LLaMA alone.
    queries = ["q_proj", "query", "q", "query_proj", "in_proj", "c_attn"]
    return {"task_type": task, "target_modules": queries if tuner == "bottleneck" else None}
