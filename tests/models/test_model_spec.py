"""Descriptions of models: every shipped file is sound, and an unsound one is told why."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro.config import ConfigError, parse
from repro.models import ModelSpec, list_models, load_model_spec

TINY = load_model_spec("tiny-llama").model_dump(mode="json")


def read(tmp_path: Path, **changes: Any) -> Any:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny-llama.yaml").write_text(yaml.safe_dump(TINY | changes))
    return load_model_spec("tiny-llama", experiments=tmp_path)


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_description_is_sound(name: str) -> None:
    spec = load_model_spec(name)
    assert spec.name == name
    assert (spec.padding.side == "left") == spec.causal


def test_a_description_survives_its_own_dump(tmp_path: Path) -> None:
    assert read(tmp_path) == load_model_spec("tiny-llama")


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'lama-7b'; known: .*did you mean 'llama-7b'"):
        load_model_spec("lama-7b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": {"token": "<pad>", "side": "right"}}, "a causal model pads on the left"),
        (
            {"checkpoint": "someone/something"},
            "checkpoint is 'someone/something', but the source is 'random'",
        ),
        ({"source": "package"}, "checkpoint is '', but the source is 'package'"),
        ({"targets": {"commonsense": ["query"]}}, "target 'query' is no linear module"),
        ({"architecture": {"model_type": "llama"}}, "needs the key"),
        ({"name": "other"}, "name: must equal the name of the file, .tiny-llama. .got 'other'"),
        ({"chekpoint": ""}, "chekpoint: unknown key .*did you mean 'checkpoint'"),
    ],
)
def test_an_unsound_description_is_told_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, **changes)


def test_a_missing_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match=r"model tiny-llama names no modules to adapt for the benchmark family 'glue' \(it does for: "
        r"commonsense, e2e\); add targets.glue to its file",
    ):
        load_model_spec("tiny-llama").targets_for("glue")


def test_planning_needs_no_torch() -> None:
    program = (
        "import sys, repro.models, repro.methods\n"
        "repro.models.load_model_spec('llama-7b')\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("hidden_size", value) for value in (-64, 0, 64.0, "64", True, None, math.inf, 10**20)),
        *(("num_attention_heads", value) for value in (3, 0, 64)),
        ("num_key_value_heads", 3),
        *(("num_hidden_layers", value) for value in (0, 10**9)),
        *(("rms_norm_eps", value) for value in ("yes", math.inf, -1.0)),
        ("rope_parameters", {"rope_theta": math.nan}),
        *(("tie_word_embeddings", value) for value in ("no", 0)),
        *(("pad_token_id", value) for value in (260, -1, "3")),
        ("vocab_size", 100),
        ("head_dim", 8),
        ("num_hidden_layrs", 2),
    ],
)
def test_an_impossible_architecture_is_refused_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"tiny-llama.yaml: architecture\.{key}: "):
        read(tmp_path, architecture=TINY["architecture"] | {key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x/../../../escaped"},
        {"source": "hub", "checkpoint": "../../x"},
        {"source": "hub", "checkpoint": "/tmp/x"},
        {"source": "package", "checkpoint": "a/b"},
        {"source": "package", "checkpoint": "a", "file": "../../x"},
        {"source": "package", "checkpoint": "a", "file": "/x"},
        {"seed": -1},
        {"targets": {"commonsense": []}},
    ],
)
def test_a_description_of_somebody_else_names_no_place_outside(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(TINY | changes, ModelSpec, "result.json")
