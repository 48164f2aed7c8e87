"""The README's generated parts are up to date, and its example runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.paths import ROOT
from repro.report.readme import with_generated_parts

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_generated_parts_are_up_to_date() -> None:
    assert with_generated_parts(README) == README, "out of date: run `make readme`"


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown generated part 'metods'; known: methods, profiles"):
        with_generated_parts("<!-- generated: metods -->\n<!-- end -->")


def test_the_peft_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert type(scope["model"]).__name__ == "LlamaForCausalLM"
