"""The pytest plugin that runs peft's tests with our tuners: it is loaded beside them, in their process.

A test of peft's that runs with several tuners, LoRA among them, gets our configurations in the place of
theirs. All others are left out. Results go to the file in PEFT_BATTERY_RESULTS, as lines of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import TUNERS, custom_cases, model_settings
from tiny import serve_tiny_models
from torch import Tensor

from repro.adapters.additive import AdditiveLayer
from repro.adapters.delta_lora.layer import DeltaLoraLayer
from repro.adapters.dual_lora import DualLoraLayer
from repro.adapters.flora import FloraLayer
from repro.adapters.mora import MoraLayer

RESULTS = Path(os.environ["PEFT_BATTERY_RESULTS"])
CASES = custom_cases(os.environ["PEFT_BATTERY_PART"])

# The task of the models of a file.
TASKS = {
    "test_decoder_models": "CAUSAL_LM",
    "test_encoder_decoder_models": "SEQ_2_SEQ_LM",
    "test_feature_extraction_models": "FEATURE_EXTRACTION",
    "test_seq_classifier": "SEQ_CLS",
}


class RandomStart:
    """Whether adapters whose dW starts at zero start with another, as peft's `init_weights=False` asks."""

    wanted = False


def pytest_configure(config: pytest.Config) -> None:
    if importlib.util.find_spec("diffusers") is None:  # imported by peft's tests, for pipelines
        diffusers: Any = types.ModuleType("diffusers")
        diffusers.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
        sys.modules["diffusers"] = diffusers
    serve_tiny_models(config.rootpath / "models")
    for layer_class in (DeltaLoraLayer, MoraLayer, FloraLayer):
        _allow_random_start(layer_class)
    _allow_random_start_of_dual_lora()
    testing_utils = importlib.import_module("peft_tests.testing_utils")
    testing_utils.set_init_weights_false = _start_at_random


def _start_at_random(config_class: Any, settings: dict[str, Any]) -> dict[str, Any]:
    RandomStart.wanted = True
    return dict(settings)


def _allow_random_start(layer_class: type[AdditiveLayer]) -> None:
    original: Any = layer_class.initial_parameters

    def initial_parameters(self: AdditiveLayer, config: Any) -> tuple[Tensor, ...]:
        start = original(self, config)
        return tuple(torch.randn_like(t) * 0.05 for t in start) if RandomStart.wanted else start

    layer_class.initial_parameters = initial_parameters  # type: ignore[method-assign]


def _allow_random_start_of_dual_lora() -> None:
    """dW - dW(0) is zero until the factors differ from those of step 0."""
    original = DualLoraLayer.update_layer

    def update_layer(self: DualLoraLayer, adapter_name: str, *arguments: Any, **settings: Any) -> None:
        original(self, adapter_name, *arguments, **settings)
        if RandomStart.wanted and adapter_name in self.dual_lora_initial:
            for factor in self.factors(adapter_name).values():
                factor.data += 0.05 * torch.randn_like(factor)

    DualLoraLayer.update_layer = update_layer  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def start(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of several active adapters ask for a random start in their configurations."""
    RandomStart.wanted = "config_kwargs_1" in request.fixturenames
    yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.own_markers
    for index, mark in enumerate(marks):
        if mark.name == "parametrize":
            if "LoraConfig'" not in str(mark.args[1]):
                continue
            names = mark.args[0] if isinstance(mark.args[0], str) else ",".join(mark.args[0])
            names = names.replace(" ", "")
            if (cases := _cases(names, metafunc.module.__name__.rpartition(".")[2])) is not None:
                marks[index] = pytest.mark.parametrize(names, cases).mark


def _cases(names: str, module: str) -> list[Any] | None:
    """Ours for these parameters, or None if they are not about configurations."""
    if names == "test_name,model_id,config_cls,config_kwargs":
        return [
            pytest.param(f"{tuner} {name}", model, TUNERS[tuner], settings, id=f"{tuner} {name}")
            for tuner, name, model, settings in CASES
        ]
    if names == "config_cls,config_kwargs" and module in TASKS:
        return [pytest.param(TUNERS[t], model_settings(t, TASKS[module]), id=t) for t in TUNERS]
    if names == "config_cls":
        return [pytest.param(TUNERS[t], id=t) for t in TUNERS]
    if names == "test_name,tuner_method,config_cls,config_kwargs_1,config_kwargs_2":
        first, last = {"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}
        return [
            pytest.param(t, t, TUNERS[t], first, second, id=f"{t} {name}")
            for t in TUNERS
            for name, second in (("same", first), ("different", last))
        ]
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _tuner(item) is not None]


def _tuner(item: pytest.Item) -> str | None:
    parameters = getattr(item, "callspec", None)
    config_class = None if parameters is None else parameters.params.get("config_cls")
    return next((name for name, known in TUNERS.items() if known is config_class), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: pytest.TestReport = yield
    if report.when == "call" or report.outcome != "passed":
        line = {
            "tuner": _tuner(item),
            "file": Path(item.location[0]).stem,
            "test": item.name,
            "outcome": report.outcome,
            "error": "" if call.excinfo is None else f"{call.excinfo.typename}: {call.excinfo.value}",
            "seconds": report.duration,
        }
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return report
