"""The models that training and evaluation compute with: plain, and with adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA

METHODS = [None, LoRA(rank=4), DualLoRA(magnitude_rank=4, init_std=0.2)]


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.name if method else "plain")
def model(request: pytest.FixtureRequest, base: nn.Module, attach: Callable[..., nn.Module]) -> nn.Module:
    return base if request.param is None else attach(request.param)
