"""The presets compared with the scripts and tables that they come from."""

from __future__ import annotations

from typing import Any

import pytest

from repro.benchmarks.glue.records import TASKS
from repro.plans.settings import deep_merge, list_presets, load_preset


def settings(preset: str, model: str, task: str, part: str) -> dict[str, Any]:
    return deep_merge([getattr(layer, part) for layer in load_preset(preset, model).layers(task)])


@pytest.mark.parametrize("model", ["roberta-base", "roberta-large", "deberta-v2-xxlarge"])
@pytest.mark.parametrize("preset", ["lora-paper", "lora-scripts"])
def test_the_lora_presets_have_every_task(preset: str, model: str) -> None:
    assert set(load_preset(preset, model).tasks) == set(TASKS)


def test_there_is_a_preset_for_every_source() -> None:
    assert {"galore", "lora-paper", "lora-scripts", "randlora-vera"} <= set(list_presets())


# Per-device batch, devices, epochs, rate, length, weight decay, alpha, from examples/NLU of microsoft/LoRA.
SCRIPTS = [
    ("roberta-base", "mnli", 16, 8, 30, 5e-4, 512, 0.1, 16),
    ("roberta-base", "cola", 32, 2, 80, 4e-4, 512, 0.1, 16),
    ("roberta-base", "qnli", 32, 8, 25, 4e-4, 512, 0.1, 16),
    ("roberta-large", "sst2", 8, 8, 10, 4e-4, 512, 0.1, 16),
    ("roberta-large", "stsb", 4, 8, 10, 3e-4, 128, 0.1, 16),
    ("deberta-v2-xxlarge", "cola", 4, 8, 10, 1.3e-4, 64, 0.0, 32),
    ("deberta-v2-xxlarge", "stsb", 4, 8, 10, 2e-4, 128, 0.1, 32),
]


@pytest.mark.parametrize("line", SCRIPTS, ids=lambda line: f"{line[0]}-{line[1]}")
def test_a_script_is_read_literally(line: tuple[Any, ...]) -> None:
    model, task, batch, devices, epochs, rate, length, decay, alpha = line
    training = settings("lora-scripts", model, task, "training")
    assert training["batch_size"] == batch * devices
    assert (training["epochs"], training["learning_rate"]) == (epochs, rate)
    assert training["weight_decay"] == decay
    assert settings("lora-scripts", model, task, "benchmark")["max_tokens"] == length
    assert settings("lora-scripts", model, task, "methods")["lora"]["alpha"] == alpha


@pytest.mark.parametrize(
    ("task", "steps"), [("mnli", 1000), ("cola", 100), ("qnli", 500), ("qqp", 10000), ("rte", 50)]
)
def test_the_scripts_warm_deberta_up_in_steps(task: str, steps: int) -> None:
    training = settings("lora-scripts", "deberta-v2-xxlarge", task, "training")
    assert (training["warmup_steps"], training["warmup_ratio"]) == (steps, None)


@pytest.mark.parametrize("preset", ["lora-paper", "lora-scripts"])
def test_one_warm_up_at_a_time(preset: str) -> None:
    for model in ("roberta-base", "roberta-large", "deberta-v2-xxlarge"):
        for task in TASKS:
            training = settings(preset, model, task, "training")
            assert not (training["warmup_steps"] and training["warmup_ratio"])
