"""What a configuration fills in, refuses and registers."""

from __future__ import annotations

import dataclasses
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, get_args

import pytest
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig, PeftType

from repro.adapters.dual_lora import DualLoraConfig, DualLoraModel, Rule, config
from repro.methods import METHODS


def test_peft_knows_the_method() -> None:
    member = PeftType("DUAL_LORA")
    assert member is PeftType.DUAL_LORA and member in list(PeftType) and member == "DUAL_LORA"
    assert (member.name, member.value) == ("DUAL_LORA", "DUAL_LORA")
    assert pickle.loads(pickle.dumps(member)) is member
    assert PEFT_TYPE_TO_CONFIG_MAPPING["DUAL_LORA"] is DualLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is DualLoraModel


@pytest.mark.parametrize(
    ("fields", "direction_rank", "rule"),
    [
        ({}, 16, Rule("relu", "sign", "ste", "eq7")),
        ({"magnitude_rank": 4}, 4, Rule()),
        ({"direction_rank": 30, "magnitude_rank": 2, "clip": "bnn"}, 30, Rule(clip="bnn")),
        ({"sign_estimator": "xnor"}, 16, Rule("relu", "sign", "xnor", "none")),
        ({"direction": "identity"}, 16, Rule("relu", "identity", "ste", "none")),
        ({"direction": "fixed"}, 0, Rule("relu", "fixed", "ste", "none")),
        (
            {"direction": "fixed", "direction_rank": 0, "clip": "none"},
            0,
            Rule("relu", "fixed", "ste", "none"),
        ),
    ],
)
def test_defaults(fields: dict[str, Any], direction_rank: int, rule: Rule) -> None:
    config = DualLoraConfig(**fields)
    assert config.direction_rank == direction_rank
    assert config.rule == rule


@pytest.mark.parametrize(
    ("fields", "alpha"),
    [
        ({}, 32),
        ({"magnitude_rank": 4}, 8),
        ({"magnitude_rank": 2, "direction_rank": 30}, 32),
        ({"magnitude_rank": 3, "direction": "fixed"}, 6),
        ({"magnitude_rank": 4, "direction": "identity", "alpha": 5}, 5),
    ],
)
def test_alpha_is_that_of_the_method(fields: dict[str, Any], alpha: float, tmp_path: Path) -> None:
    config = DualLoraConfig(**fields)
    assert config.alpha == METHODS["dual_lora"](**fields).alpha == alpha
    config.save_pretrained(tmp_path)
    saved = tmp_path / "adapter_config.json"
    assert json.loads(saved.read_text())["alpha"] == alpha
    # Adapters saved when the default was 32 at all ranks.
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"alpha": 32.0}))
    assert DualLoraConfig.from_pretrained(tmp_path).alpha == 32.0


def test_the_methods_choices_are_those_of_the_tuner() -> None:
    """The method repeats them, because it is read without torch."""
    for name, allowed in config._CHOICES.items():
        if name in METHODS["dual_lora"].model_fields:
            assert get_args(METHODS["dual_lora"].model_fields[name].annotation) == allowed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"magnitude_activation": "gelu"},
            "magnitude_activation='gelu'.*one of relu, abs, sigmoid, identity",
        ),
        ({"direction": "random"}, "direction='random'.*one of sign, identity, fixed"),
        ({"sign_estimator": "bnn"}, "sign_estimator='bnn'.*one of ste, xnor, dorefa"),
        ({"clip": "eq11"}, "clip='eq11'.*one of eq7, eq12, bnn, none"),
        ({"warmup": "linear"}, "warmup='linear'.*one of ramp, none, subtract_initial"),
        ({"bias": "lora_only"}, "bias='lora_only'.*one of none, all, dual_lora_only"),
        ({"clip": "eq7", "sign_estimator": "xnor"}, "clip='eq7'.*'none' with sign_estimator='xnor'"),
        ({"clip": "bnn", "direction": "identity"}, "clip='bnn'.*'none' with direction='identity'"),
        (
            {"sign_estimator": "xnor", "direction": "fixed"},
            "sign_estimator='xnor'.*'ste' with direction='fixed'",
        ),
        ({"magnitude_rank": 0}, "magnitude_rank=0.*1 or more"),
        ({"magnitude_rank": 2.0}, r"magnitude_rank=2\.0.*an integer"),
        ({"direction_rank": 0}, "direction_rank=0.*1 or more"),
        ({"direction_rank": 8, "direction": "fixed"}, "direction_rank=8.*0 or None with direction='fixed'"),
        ({"alpha": 0}, "alpha=0.*greater than 0"),
        ({"alpha_pattern": {"q_proj": -1}}, r"alpha_pattern\['q_proj'\]=-1.*greater than 0"),
        ({"rank_pattern": {"q_proj": 8.0}}, r"rank_pattern\['q_proj'\]=8\.0.*an integer or a pair of ranks"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\]: magnitude_rank=0.*1 or more"),
        ({"r": 8, "magnitude_rank": 16}, "r=8.*the same as magnitude_rank=16"),
        ({"r": 0}, "magnitude_rank=0.*1 or more"),
        ({"init_weights": "gaussian"}, "init_weights='gaussian'.*True or False"),
        ({"init_weights": False, "warmup": "subtract_initial"}, "init_weights=False.*starts at dW = 0"),
        ({"layers_pattern": "h"}, "layers_pattern='h'.*None unless layers_to_transform"),
        ({"rank_pattern": {"q_proj": (8, 0)}}, r"rank_pattern\['q_proj'\]: direction_rank=0.*1 or more"),
        ({"init_std": 0.0}, r"init_std=0\.0.*greater than 0"),
        ({"warmup_steps": 0}, "warmup_steps=0.*1 or more"),
        ({"dropout": 0.05}, r"dropout=0\.05.*0: dW is part of the weight"),
        ({"target_modules": ".*q", "layers_to_transform": [0]}, r"layers_to_transform=\[0\].*None where"),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        DualLoraConfig(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "ranks"),
    [
        ({"r": 4}, (4, 4)),
        ({"r": 4, "magnitude_rank": 4, "direction_rank": 2}, (4, 2)),
        ({"r": 4, "direction": "fixed"}, (4, 0)),
        ({"rank_pattern": {"q_proj": 3}}, (3, 3)),
        ({"rank_pattern": {"q_proj": 3}, "direction": "fixed"}, (3, 0)),
    ],
)
def test_pefts_words_for_ranks(fields: dict[str, Any], ranks: tuple[int, int], tmp_path: Path) -> None:
    config = DualLoraConfig(**fields)
    assert config.ranks_and_alpha("layers.0.q_proj")[0] == ranks
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert "r" not in saved and saved["magnitude_rank"] == config.magnitude_rank
    assert PeftConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert dataclasses.replace(config, bias="all").to_dict() == config.to_dict() | {"bias": "all"}


def test_configuration_of_an_earlier_version_loads(tmp_path: Path) -> None:
    config = DualLoraConfig(magnitude_rank=4, rank_pattern={"q_proj": (1, 3)})
    config.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    saved = json.loads(path.read_text())
    del saved["init_weights"]
    path.write_text(json.dumps(saved))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded.ranks_and_alpha("q_proj") == ((1, 3), 8.0)


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    config = DualLoraConfig(
        magnitude_rank=2,
        direction_rank=6,
        target_modules=["q_proj", "v_proj"],
        clip="eq12",
        warmup="subtract_initial",
        rank_pattern={"q_proj": (1, 3)},
        alpha_pattern={"v_proj": 5.0},
    )
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, DualLoraConfig)
    assert loaded.ranks_and_alpha("layers.0.q_proj") == ((1, 3), 8.0)
    assert loaded.ranks_and_alpha("layers.0.v_proj") == ((2, 6), 5.0)
    assert loaded.to_dict() == {**config.to_dict(), "rank_pattern": {"q_proj": [1, 3]}}
