"""An old torch is named in one line, and the bound is that of both distributions."""

from __future__ import annotations

import tomllib
import warnings

import pytest
import torch

from repro.adapters.dual_lora.torch_version import OLDEST, warn_if_older
from repro.paths import ROOT


@pytest.mark.parametrize("version", ["2.11.0+cu130", "2.9.1", "1.13.1"])
def test_an_old_torch_is_named_in_a_line(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.warns(UserWarning) as warned:
        warn_if_older()
    (line,) = [str(warning.message) for warning in warned]
    assert line.startswith(f"torch {version} is installed") and "pip install 'torch>=2.13'" in line
    assert "\n" not in line


@pytest.mark.parametrize("version", [torch.__version__, "2.13.0a0+git1234", "2.14.0.dev20261120", "3.0.0"])
def test_others_are_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_older()


@pytest.mark.parametrize("file", ["pyproject.toml", "scripts/dual-lora/pyproject.toml"])
def test_the_bound_is_that_of_the_distributions(file: str) -> None:
    project = tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["project"]
    assert f"torch>={'.'.join(map(str, OLDEST))}" in project["dependencies"]
