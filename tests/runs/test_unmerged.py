"""A finished run tested without merging: equal to a run that never merged, kept once, refused if foreign."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.analysis.damaged_files import damaged_files
from repro.analysis.merging import merging_costs
from repro.cli import main
from repro.config import ConfigError
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.report.merging import merging_page
from repro.runs.bases import BaseModels
from repro.runs.known_unmerged import known_unmerged
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.states import run_states
from repro.runs.store import DIAGNOSTICS, UNMERGED, Store
from repro.runs.unmerged import run_unmerged

EXECUTION = Execution(wandb=False, micro_batch_size=4, evaluation_tokens=512)
PROFILE = load_profile("smoke")


def spec_of(experiment: str, row: str, **training: object) -> RunSpec:
    planned = expand(load_experiment(experiment), PROFILE)
    (found,) = next(r.specs for r in planned.rows if r.id == row)
    return found.model_copy(update={"training": found.training.model_copy(update=training)})


def run(spec: RunSpec, folder: Path, **settings: object) -> Result:
    execution = EXECUTION.model_copy(update=settings)
    return execute(spec, store=Store(folder), execution=execution, bases=BaseModels(), group="test")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Store, Result]:
    """LoRA in bf16, where merging rounds, and its test without merging."""
    spec, folder = (
        spec_of("table1", "lora", precision="bf16"),
        tmp_path_factory.mktemp("results") / "runs",
    )
    result, store = run(spec, folder), Store(folder)
    run_unmerged(spec, result, store, EXECUTION, BaseModels())
    return spec, store, result


def test_it_is_what_a_run_that_never_merged_gives(
    finished: tuple[RunSpec, Store, Result], tmp_path: Path
) -> None:
    spec, store, merged = finished
    other = run(spec, tmp_path, score="unmerged")
    assert not other.evaluation.merged and other.training.losses == merged.training.losses
    found = known_unmerged(spec, merged, store)
    assert found is not None and found.scores == other.scores
    assert found.scores != merged.scores  # bf16 rounds the merged weights
    with pytest.raises(ConfigError, match="nothing was merged"):
        run_unmerged(spec, other, Store(tmp_path), EXECUTION, BaseModels())


def test_in_fp32_merging_costs_nothing_but_rounding(tmp_path: Path) -> None:
    """Also of a run that evaluates the adapter of another, which it alters."""
    parent, child = (spec_of("questions/setting3", f"setting3-r16{end}") for end in ("", "-other-1"))
    for spec in (parent, child):
        result = run(spec, tmp_path)
        found = run_unmerged(spec, result, Store(tmp_path), EXECUTION, BaseModels())
        for column, score in result.scores.items():
            assert found.scores[column].outcomes == score.outcomes
            assert found.scores[column].log_probabilities == pytest.approx(score.log_probabilities, abs=2e-3)
    assert run(parent, tmp_path).scores != run(child, tmp_path).scores


def test_what_is_stored_is_kept_and_a_lost_adapter_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path)
    store = Store(tmp_path / "runs")
    specs = [spec_of("table1", row) for row in ("lora", "hira")]
    for spec in specs:
        run(spec, store.folder)
    adapter = store.directory(specs[0]) / "adapter"
    adapter.rename(tmp_path / "adapter")
    command = ["unmerged", "table1", "--profile", "smoke", "--rows", "lora,hira,base,dora"]
    assert main(command) == 1
    told = capsys.readouterr()
    assert told.out.startswith("table1, profile smoke: 2 of 4 runs are done and were tested merged\n")
    assert "hira" in told.out.splitlines()[1] and len(told.out.splitlines()) == 2
    (problem,) = [line for line in told.err.splitlines() if not line.startswith("testing ")]
    assert problem.startswith(f"not tested: {specs[0].slug}: ") and f"{adapter} is missing" in problem
    file = store.directory(specs[1]) / UNMERGED
    before = file.stat().st_mtime_ns, file.read_bytes()
    (tmp_path / "adapter").rename(adapter)
    assert main(command) == 0
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    assert (store.directory(specs[0]) / UNMERGED).exists()
    # A rendered table says what it costs.
    capsys.readouterr()
    assert main(["render", "table1", "--profile", "smoke"]) == 0
    assert "table1-merging.csv" in capsys.readouterr().out
    assert "| LoRA (r=16) | 1 |" in (tmp_path / "tables" / "smoke" / "table1-merging.md").read_text()


def _digits(tree: Any) -> None:
    score = next(iter(tree["scores"].values()))
    score["outcomes"] = "".join("10"[int(digit)] for digit in score["outcomes"])
    score["value"] = -1.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tree: tree.update(hash="0" * 12), "of another run, 000000000000"),
        (lambda tree: tree.update(data_fingerprint="x"), "data_fingerprint is x, the run's is "),
        (lambda tree: tree.update(items=31), "items is 31, the run's is 32"),
        (lambda tree: tree.update(scorer_version=99), "scorer_version is 99, the run's is "),
        (lambda tree: tree["scores"].popitem(), "scores: it has "),
        (_digits, "a value of -1.0, but outcomes with the mean "),
        (lambda tree: tree.update(version=2), "not a valid unmerged of version 1 (version: "),
        (lambda tree: tree.update(seconds="1"), "not a valid unmerged of version 1 (seconds: "),
    ],
)
def test_a_file_that_is_not_of_the_run_or_contradicts_itself_is_refused_in_one_line(
    finished: tuple[RunSpec, Store, Result], tmp_path: Path, change: Callable[[Any], object], why: str
) -> None:
    spec, store, result = finished
    tree = json.loads((store.directory(spec) / UNMERGED).read_text())
    change(tree)
    own = Store(tmp_path)
    own.write_result(spec, result)
    path = own.directory(spec) / UNMERGED
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError) as refused:
        run_unmerged(spec, result, own, EXECUTION, BaseModels())
    line = str(refused.value)
    assert line.startswith(f"{path}: ") and why in line and "\n" not in line
    assert line.endswith("delete it to test again with `repro unmerged`")


def test_differences_are_paired_and_the_lost_share_is_that_of_the_runs_precision(
    finished: tuple[RunSpec, Store, Result], tmp_path: Path
) -> None:
    """With outcomes written by hand: merging turns one right answer of 32 wrong."""
    spec, store, result = finished
    planned = expand(load_experiment("table1"), PROFILE).only(["lora"])
    (row,) = planned.rows
    own = Store(tmp_path / "runs")
    (plain,) = row.specs
    tree = json.loads((store.directory(spec) / UNMERGED).read_text())
    merged: dict[str, Any] = {}
    for place, (column, score) in enumerate(tree["scores"].items()):
        score |= {"outcomes": "1100", "value": 50.0, "log_probabilities": [-1.0] * 4}
        merged[column] = result.scores[column].model_copy(
            update={"outcomes": "1100" if place else "1000", "value": 50.0 if place else 25.0,
                    "log_probabilities": (-1.0,) * 4}
        )  # fmt: skip
    own.write_result(
        plain,
        result.model_copy(
            update={
                "hash": plain.hash,
                "slug": plain.slug,
                "spec": plain.model_dump(mode="json"),
                "scores": merged,
            }
        ),
    )
    (own.directory(plain) / UNMERGED).write_text(json.dumps(tree | {"hash": plain.hash}))
    (own.directory(plain) / DIAGNOSTICS).write_text(
        json.dumps(
            {
                "version": 1,
                "steps": [0],
                "layers": {},
                "merge_errors": {"a": {"fp32": 0.1, "bf16": 0.9}, "b": {"fp32": 0.3, "bf16": 0.9}},
            }
        )
    )
    states = run_states(planned, own)
    assert damaged_files(states, own) == []
    (cost,) = merging_costs(planned, states, own)
    assert cost.score.merged == pytest.approx(50 - 25 / 8) and cost.score.unmerged == pytest.approx(50)
    assert cost.score.difference.mean == pytest.approx(-25 / 8)
    # In one of 8 tasks -100 once and 0 three times: a variance of 2500 over 4 items.
    assert cost.score.difference.error == pytest.approx((2500 / 4 / 64) ** 0.5)
    assert cost.probability is not None and cost.probability.difference.mean == 0
    assert cost.probability.identical and not cost.score.identical
    assert (cost.lost, cost.most_lost) == (pytest.approx(0.2), 0.3)
    page = merging_page(planned, [cost])
    assert "| LoRA (r=16) | 1 | 46.9 | 50.0 | -3.12 ± " in page and "| 36.8 | 36.8 | none | 20 | 30 |" in page
    (own.directory(plain) / UNMERGED).write_text("{")
    assert merging_costs(planned, states, own) == []
    (line,) = damaged_files(states, own)
    assert line.startswith("damaged: ") and UNMERGED in line
