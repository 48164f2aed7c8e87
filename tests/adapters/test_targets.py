"""Which modules the tuners of this package adapt, against what peft's LoRA adapts under the same settings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.delta_lora import DeltaLoraConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.flora import FloraConfig
from repro.adapters.mora import MoraConfig
from repro.models import load_model_spec
from repro.models.loading import load_model

BASE = load_model(load_model_spec("tiny-llama"), "causal_lm")
TUNERS = [BottleneckConfig, DeltaLoraConfig, DualLoraConfig, FloraConfig, MoraConfig]
TARGETS = ["q_proj", "up_proj"]
tuners = pytest.mark.parametrize("tuner", TUNERS, ids=lambda tuner: tuner.__name__)


def adapted(config: PeftConfig) -> set[str]:
    model: nn.Module = get_peft_model(copy.deepcopy(BASE), config)
    return {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


@pytest.mark.parametrize(
    "fields",
    [
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"exclude_modules": r".*\.1\.mlp\..*"},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
    ],
    ids=str,
)
@tuners
def test_modules_are_matched_as_for_lora(tuner: type[PeftConfig], fields: dict[str, Any]) -> None:
    expected = adapted(LoraConfig(target_modules=TARGETS, **fields))
    assert 0 < len(expected) < len(adapted(LoraConfig(target_modules=TARGETS)))
    assert adapted(tuner(target_modules=TARGETS, **fields)) == expected


@tuners
def test_settings_without_effect_are_refused(tuner: type[PeftConfig]) -> None:
    with pytest.raises(ValueError, match=r"layers_to_transform=\[0\]"):
        tuner(target_modules=".*q_proj", layers_to_transform=[0])
    with pytest.raises(ValueError, match=r"layers_pattern='h'.*layers_to_transform"):
        tuner(target_modules=TARGETS, layers_pattern="h")


def test_a_serial_bottleneck_counts_no_layers() -> None:
    with pytest.raises(ValueError, match=r"layers_to_transform=\[0\] is not possible with placement"):
        BottleneckConfig(placement="serial", target_modules=["0"], layers_to_transform=[0])
