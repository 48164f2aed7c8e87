"""A run's hash: equal for equal settings, different for different ones."""

from __future__ import annotations

import json

import pytest

from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA
from repro.models.spec import load_model_spec
from repro.plans.spec import RunSpec, canonical_json, flatten
from repro.training.spec import TrainingSpec


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec(
        model=load_model_spec("tiny-llama"),
        method=LoRA(rank=4),
        benchmark=Commonsense(source="package", train_per_task=4, test_per_task=4, protocol=ClozeSettings()),
        training=TrainingSpec(
            epochs=1, batch_size=8, learning_rate=1e-3, warmup_steps=1, loss_on="completion", append_eos=False
        ),
        seed=0,
    )


def test_a_method_that_the_model_cannot_have_is_refused() -> None:
    """Before anything is planned, counted or rendered."""
    content = {
        "model": load_model_spec("deberta-v2-xxlarge").for_family("glue"),
        "method": {"name": "prefix"},
        "benchmark": {"family": "glue", "tasks": ["rte"], "source": "hub"},
        "training": TrainingSpec(
            epochs=1, batch_size=8, learning_rate=1e-3, warmup_steps=1, loss_on="all", append_eos=False
        ),
        "seed": 0,
    }
    with pytest.raises(ValueError, match="prefix: deberta-v2 cannot attend to keys and values before"):
        RunSpec.model_validate(content)


def test_a_spec_survives_its_json(spec: RunSpec) -> None:
    again = RunSpec.model_validate_json(canonical_json(spec))
    assert again == spec
    assert again.hash == spec.hash
    assert isinstance(again.method, LoRA)
    assert isinstance(again.benchmark, Commonsense)


def test_the_hash_does_not_hang_on_the_order_of_keys(spec: RunSpec) -> None:
    content = json.loads(canonical_json(spec))
    turned = {key: content[key] for key in reversed(content)}
    turned["training"] = {key: turned["training"][key] for key in reversed(turned["training"])}
    assert RunSpec.model_validate(turned).hash == spec.hash


def test_a_default_written_out_is_the_same_run(spec: RunSpec) -> None:
    content = json.loads(canonical_json(spec))
    del content["training"]["eps"], content["method"]["dropout"]
    assert RunSpec.model_validate(content).hash == spec.hash


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"method": LoRA(rank=5)},
        {"method": LoRA(rank=4, dropout=0.1)},
        {"method": DualLoRA(magnitude_rank=2)},
        {"model": load_model_spec("smollm2-135m-instruct")},
    ],
    ids=str,
)
def test_any_other_setting_is_another_run(spec: RunSpec, change: dict) -> None:
    assert spec.model_copy(update=change).hash != spec.hash


def test_nested_settings_are_part_of_the_hash(spec: RunSpec) -> None:
    training = spec.training.model_copy(update={"loss_on": "all"})
    benchmark = spec.benchmark.model_copy(update={"protocol": GenerateSettings()})
    changed = {
        spec.model_copy(update={"training": training}).hash,
        spec.model_copy(update={"benchmark": benchmark}).hash,
    }
    assert len(changed | {spec.hash}) == 3


def test_the_slug_tells_a_person_what_the_run_is(spec: RunSpec) -> None:
    for part in ("commonsense", "tiny-llama", spec.method.name, "seed0", spec.hash):
        assert part in spec.slug


def test_flatten_gives_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}) == {"a.b": 1, "a.c.d": [2, 3], "e": None}
