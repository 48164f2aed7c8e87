"""`--data`: where all data are from, without an edit of a profile."""

from __future__ import annotations

import pytest

from repro.cli import main
from repro.config import ConfigError
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile


def plan(experiment: str, profile: str, data: str | None) -> Plan:
    return expand(load_experiment(experiment), load_profile(profile), data=data)


def sources(planned: Plan) -> set[str]:
    return {run.benchmark.model_dump()["source"] for run in planned.runs.values()}


@pytest.mark.parametrize("at_hand", [False, True])
def test_data_says_where_all_records_come_from(
    at_hand: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path) if at_hand else "")
    for experiment in ("table1", "table2", "table4"):
        assert sources(plan(experiment, "paper", None)) == {"hub"}
        assert sources(plan(experiment, "paper", "local")) == {"local"}
        assert sources(plan(experiment, "laptop", "hub")) == {"hub"}
    # The laptop profile has settings of its own for local data.
    local, profile = plan("table2", "laptop", "local"), plan("table2", "laptop", "profile")
    assert (sources(local), len(local.columns)) == ({"local"}, 8)
    assert sources(profile) == {"package"} and local.runs.keys().isdisjoint(profile.runs)
    assert list(plan("table2", "laptop", None).runs) == list((local if at_hand else profile).runs)


def test_a_source_that_a_family_lacks_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"source: not one of the known values \(got 'synthetic'; allowed"):
        plan("table2", "smoke", "synthetic")


def test_submitted_tasks_read_the_same_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path)
    assert main(["submit", "table1", "--profile", "smoke", "--data", "local", "--dry-run"]) == 0
    assert "task table1 --profile smoke --data local" in capsys.readouterr().out
