"""A damaged or foreign adapter is refused, with the file's name; a pickle is never read."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from repro.config import ConfigError
from repro.methods import METHODS
from repro.models import load_model_spec
from repro.models.loading import load_model

SPEC = load_model_spec("tiny-llama")
TARGETS = SPEC.targets_for("commonsense")
BASE = load_model(SPEC, "causal_lm")


class _Payload:
    """Creates a file when it is unpickled; its name is in the environment."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ('touch "$REPRO_TEST_PAYLOAD"',)


def _tensors(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        (path,) = folder.glob("*model.safetensors")
        tensors = load_file(path)
        change(tensors, sorted(tensors)[0])
        save_file(tensors, path)
        return path.name

    return damage


def _cut(folder: Path) -> str:
    (path,) = folder.glob("*model.safetensors")
    path.write_bytes(path.read_bytes()[:3000])
    return path.name


def _pickle(folder: Path) -> str:
    (path,) = folder.glob("*model.safetensors")
    path.unlink()
    torch.save(_Payload(), path.with_suffix(".bin"))
    return path.name


def _pickle_by_name(folder: Path) -> str:
    (path,) = folder.glob("*model.safetensors")
    torch.save(_Payload(), path)
    return path.name


DAMAGES = {
    "a tensor less": _tensors(lambda t, first: t.pop(first)),
    "a tensor more": _tensors(lambda t, first: t.update(more=t[first].clone())),
    "another dtype": _tensors(lambda t, first: t.update({first: t[first].half()})),
    "another shape": _tensors(lambda t, first: t.update({first: t[first][:1].clone()})),
    "no number": _tensors(lambda t, first: t.update({first: t[first] * float("nan")})),
    "no end": _tensors(lambda t, first: t.update({first: t[first] + float("inf")})),
    "cut": _cut,
    "a pickle beside": _pickle,
    "a pickle in its place": _pickle_by_name,
}


def _refused(name: str, damage: Callable[[Path], str], folder: Path) -> None:
    method = METHODS[name]()
    torch.manual_seed(0)
    model = method.attach(copy.deepcopy(BASE), TARGETS, "causal_lm")
    method.save(model, folder)
    method.load(copy.deepcopy(BASE), folder, TARGETS, "causal_lm")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    file = damage(folder)
    for read in (
        lambda: method.load(copy.deepcopy(BASE), folder, TARGETS, "causal_lm"),
        lambda: method.reload(model, folder),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        assert file in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["lora", "dual_lora", "vera", "prefix", "fft"])
def test_damaged_weights_are_refused(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_TEST_PAYLOAD", str(tmp_path / "executed"))
    _refused(name, DAMAGES[damage], tmp_path / "adapter")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"lora_alpha": 1e6},
        {"r": 3},
        {"peft_type": "LOHA"},
        {"use_dora": True},
        {"target_modules": ["q_proj"]},
    ],
)
def test_another_configuration_is_refused(entry: dict[str, Any], tmp_path: Path) -> None:
    def damage(folder: Path) -> str:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entry))
        return path.name

    _refused("lora", damage, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 10_000])
def test_a_damaged_configuration_is_refused(content: str, tmp_path: Path) -> None:
    def damage(folder: Path) -> str:
        (folder / "adapter_config.json").write_text(content)
        return "adapter_config.json"

    _refused("lora", damage, tmp_path)
