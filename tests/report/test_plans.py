"""A plan as text: it has every run, and fits a terminal."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from repro.paths import REFERENCE
from repro.plans.experiment import list_experiments, load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.report.plans import describe_plan
from repro.runs.states import run_states
from repro.runs.store import Store


def described(planned: Plan, folder: Path) -> str:
    return describe_plan(planned, run_states(planned, Store(folder)))


@pytest.mark.parametrize("profile", ["paper", "laptop"])
@pytest.mark.parametrize("name", list_experiments())
def test_every_run_is_named_within_120_columns(name: str, profile: str, tmp_path: Path) -> None:
    planned = expand(load_experiment(name), load_profile(profile))
    text = described(planned, tmp_path)
    assert max(map(len, text.splitlines())) <= 120
    assert set(re.findall(r"\b[0-9a-f]{12}\b", text)) == set(planned.runs)


def test_runs_stand_by_state_with_their_seeds(tmp_path: Path) -> None:
    planned = expand(load_experiment("fig2"), load_profile("laptop"), seeds=(0, 1))
    first, second = next(row for row in planned.rows if row.id == "lora-r16").specs
    (tmp_path / first.slug).mkdir()
    shutil.copy(REFERENCE / "runs" / first.slug / "result.json", tmp_path / first.slug)
    assert f"  done 0:{first.hash}, missing 1:{second.hash}\n" in described(planned, tmp_path)
