"""Methods by name, their defaults, and messages about invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from repro.config import ConfigError
from repro.methods import METHODS, parse_method

# The tables' row labels, and the methods' names in experiment files.
LABELS = {
    "base": "Base",
    "fft": "FFT",
    "adapter_p": "Adapter-P",
    "lora": "LoRA",
    "lora_plus": "LoRA+",
    "dora": "DoRA",
    "hira": "HiRA",
    "randlora": "RandLoRA",
    "dual_lora": "Dual LoRA",
    "delta_lora": "Delta-LoRA",
    "loha": "LoHa",
    "galore": "GaLore",
    "garare": "GaRare",
}


def test_every_row_label_has_a_method() -> None:
    assert LABELS.items() <= {name: cls.label for name, cls in METHODS.items()}.items()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_survives_its_own_dump(name: str) -> None:
    method = METHODS[name]()
    assert parse_method(method.model_dump(mode="json")) == method
    assert parse_method(method) is method
    assert method.name == name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "lora", "rank": 16}, {"rank": 16, "alpha": 32.0, "dropout": 0.05}),
        ({"name": "lora", "rank": 16, "alpha": 7}, {"alpha": 7.0}),
        ({"name": "randlora", "rank": 64}, {"alpha": 128.0}),
        ({"name": "loha", "rank": 4}, {"alpha": 4.0}),
        ({"name": "dual_lora", "magnitude_rank": 8}, {"direction_rank": 8, "alpha": 16.0, "clip": "eq7"}),
        ({"name": "dual_lora", "magnitude_rank": 2, "direction_rank": 30}, {"alpha": 32.0}),
        ({"name": "dual_lora", "direction": "fixed"}, {"direction_rank": 0, "alpha": 32.0, "clip": "none"}),
        ({"name": "dual_lora", "sign_estimator": "xnor"}, {"clip": "none"}),
    ],
)
def test_defaults_follow_from_what_is_set(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    resolved = parse_method(settings).model_dump()
    assert {key: resolved[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lara"}, "unknown method 'lara'; known: .*did you mean 'lora'"),
        ({}, "unknown method None; known: adapter_l, adapter_p, base"),
        (["lora"], "unknown method"),
        (
            {"name": "lora", "rnak": 8},
            "^lora: rnak: unknown key .got 8; allowed: alpha, dropout, name, rank; did",
        ),
        ({"name": "lora", "rank": 0}, "^lora: rank: Input should be greater than 0 .got 0.$"),
        (
            {"name": "dual_lora", "direction": "up"},
            "^dual_lora: direction: not one of the known values .got 'up'",
        ),
        ({"name": "dual_lora", "direction": "fixed", "direction_rank": 4}, "it is 0 for a fixed direction"),
        ({"name": "dual_lora", "direction_rank": 0}, "direction_rank 0 does not fit direction 'sign'"),
        ({"name": "dual_lora", "direction": "identity", "sign_estimator": "xnor"}, "has no sign"),
        ({"name": "dual_lora", "direction": "identity", "clip": "eq7"}, "clip is 'eq7', but only a sign"),
    ],
)
def test_an_impossible_method_is_told_why(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method(settings)
