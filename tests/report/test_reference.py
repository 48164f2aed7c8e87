"""The committed results: readable, from a clean checkout, and never of the smoke profile's random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.paths import ROOT
from repro.study.result import Result

FILES = sorted((ROOT / "results" / "reference").rglob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_reference_result_can_be_believed(path: Path) -> None:
    result = Result.model_validate_json(path.read_text(encoding="utf-8"))
    assert path.stem == result.slug
    assert result.environment.commit is not None
    assert result.environment.dirty is False
    assert result.spec["model"]["source"] != "random"
    assert all(probe.distance <= probe.tolerance for probe in result.probes)
    for score in result.scores.values():
        assert len(score.outcomes) == score.items
        if isinstance(score.outcomes, str):
            assert score.value == pytest.approx(100 * score.outcomes.count("1") / score.items)
