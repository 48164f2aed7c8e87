"""A spec comes back from a result file alone, or one line says why it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro.config import ConfigError
from repro.paths import REFERENCE
from repro.runs.rerun import read_run


@pytest.fixture
def content() -> dict[str, Any]:
    return json.loads(next(REFERENCE.glob("runs/*--dual_lora--*/result.json")).read_text())


def _written(content: dict[str, Any], folder: Path) -> Path:
    (folder / "result.json").write_text(json.dumps(content))
    return folder / "result.json"


def test_the_spec_comes_back(content: dict[str, Any], tmp_path: Path) -> None:
    spec, result = read_run(_written(content, tmp_path))
    assert spec.model_dump(mode="json") == content["spec"]
    assert spec.hash == content["hash"] == result.hash


def test_an_edited_setting_is_noticed(content: dict[str, Any], tmp_path: Path) -> None:
    content["spec"]["training"]["learning_rate"] *= 2
    with pytest.raises(
        ConfigError, match=rf"its hash is {content['hash']}, its spec has \w+; the file was edited"
    ):
        read_run(_written(content, tmp_path))


def test_another_version_of_specs_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["spec"]["version"] = 99
    with pytest.raises(
        ConfigError, match=r"its spec has version 99, this code knows 1 and 2; .* commit \w{40}"
    ):
        read_run(_written(content, tmp_path))


def test_a_missing_file_and_another_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no such file; a result is results/runs/<run>/result\.json"
    ):
        read_run(tmp_path / "result.json")
    with pytest.raises(ConfigError, match="not a valid result"):
        read_run(_written({"hash": "x"}, tmp_path))
