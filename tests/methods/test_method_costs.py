"""What a method says that it costs, against torch's own count of floating-point operations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from repro.methods import METHODS, Method, parse_method
from repro.models import linear_shapes, load_model_spec
from repro.models.loading import load_model

SPEC = load_model_spec("tiny-llama")
TARGETS = SPEC.targets_for("commonsense")
BASE = load_model(SPEC, "causal_lm")
TOKENS = 96

# Methods without a linear map of the model that they adapt one by one; Adapter-L stands behind blocks.
WITHOUT_A_MAP = {"base", "prefix", "adapter_l"}
# Exact but for biases and diagonal scales, which are no matrix products, or whose products torch chooses.
SHARE_NOT_COUNTED = {"adapter_l": 0.05, "randlora": 0.02}


def methods() -> Iterator[Method]:
    for name, cls in METHODS.items():
        if name not in WITHOUT_A_MAP:
            yield parse_method({"name": name, **({"rank": 8} if "rank" in cls.model_fields else {})})
    yield parse_method({"name": "dora", "rank": 8, "dropout": 0.0})
    yield parse_method({"name": "mora", "rank": 8, "compression": "sharing"})
    for settings in (
        {"direction": "fixed"},
        {"direction": "identity"},
        {"sign_estimator": "xnor"},
        {"warmup": "subtract_initial"},
    ):
        yield parse_method({"name": "dual_lora", "magnitude_rank": 4, **settings})


def attached(method: Method) -> nn.Module:
    torch.manual_seed(0)
    base = copy.deepcopy(BASE)
    if method.calibration_examples:
        tokens = torch.arange(4, 36).reshape(2, 16)
        method.calibrate(base, [{"input_ids": row[None]} for row in tokens], TARGETS, "causal_lm")
    return method.attach(base, TARGETS, "causal_lm").train()


def addmm_in_place(into: torch.Size, left: torch.Size, right: torch.Size, **_: Any) -> int:
    """FLOPs of an operation that torch's counter does not know, with which Dual LoRA sums gradients."""
    return 2 * left[0] * left[1] * right[1]


def counted(layer: nn.Module, in_features: int) -> int:
    """FLOPs of a forward and a backward pass, with a gradient for the input."""
    x = torch.randn(TOKENS, in_features, requires_grad=True)
    known = {torch.ops.aten.addmm_: addmm_in_place}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        layer(x).sum().backward()
    return counter.get_total_flops()


def shown(method: Method) -> str:
    return "-".join(str(value) for value in method.model_dump(exclude_defaults=True).values())


@pytest.mark.parametrize("method", methods(), ids=lambda m: f"{m.name}-{shown(m)}")
@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
def test_a_layer_takes_the_operations_that_the_method_says(method: Method, name: str) -> None:
    shape = next(s for s in linear_shapes(SPEC.architecture, TARGETS) if s.name.endswith(name))
    layer = next(m for n, m in attached(method).named_modules() if n.endswith(name))
    expected = method.flops_per_weight * TOKENS * shape.parameters
    if method.adapted([shape]):
        expected += method.adapter_cost(shape, TOKENS).flops
    tolerance = SHARE_NOT_COUNTED.get(method.name, 0)
    assert counted(layer, shape.in_features) == pytest.approx(expected, rel=tolerance, abs=0)
