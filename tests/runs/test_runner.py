"""One run through the real path, on a tiny model: what it leaves, that it repeats, that it resumes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repro.config import ConfigError
from repro.methods import base
from repro.models.saved import read_tensors
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.json_files import DamagedFile
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

EXECUTION = Execution(micro_batch_size=4, evaluation_tokens=8192, checkpoint_minutes=0, wandb=False)


def _spec(row: str) -> RunSpec:
    rows = {r.id: r for r in expand(load_experiment("table1"), load_profile("smoke")).rows}
    return rows[row].specs[0]


def _execute(spec: RunSpec, folder: Path, **settings: object) -> Result:
    options = {
        "store": Store(folder),
        "execution": EXECUTION,
        "bases": BaseModels(),
        "group": "test",
    } | settings
    return execute(spec, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path, Result]:
    spec, folder = _spec("dual_lora"), tmp_path_factory.mktemp("runs")
    return spec, folder, _execute(spec, folder)


def test_a_result_says_what_was_done(finished: tuple[RunSpec, Path, Result]) -> None:
    spec, _, result = finished
    assert RunSpec.model_validate(result.spec) == spec
    assert set(result.scores) == set(spec.benchmark.columns)
    assert all(score.items == 4 == len(score.outcomes) for score in result.scores.values())
    assert all(score.metric == "accuracy (cloze)" for score in result.scores.values())
    # 4 records of each of 8 tasks, 4 held out, in batches of 8.
    assert result.training.steps == len(result.training.losses) == 4
    assert [step for step, _ in result.training.validation_losses] == [2, 4]
    assert result.trainable_parameters == 22_528
    assert result.adapted_layers == {"repro.adapters.dual_lora.layer.Linear": 10}
    assert result.training.kernel == ("c" if shutil.which("cc") else "torch")
    assert set(result.data_fingerprints) == {"train", "validation", "test"}
    assert result.environment.packages["torch"] == torch.__version__
    assert result.peak_memory_bytes > 2**20
    assert {probe.name for probe in result.probes} == {
        "batch of 1 = batch of N",
        "two passes",
        "reloaded = in memory",
        "merged = unmerged",
    }


def test_a_finished_run_leaves_predictions_and_adapter_and_nothing_else(
    finished: tuple[RunSpec, Path, Result],
) -> None:
    spec, folder, _ = finished
    left = {path.name for path in Store(folder).directory(spec).iterdir()}
    assert left == {"result.json", "diagnostics.json", "predictions.jsonl.gz", "adapter", ".lock"}
    assert len(Store(folder).predictions(spec)) == 32


def test_stored_predictions_give_the_stored_scores(finished: tuple[RunSpec, Path, Result]) -> None:
    spec, folder, result = finished
    assert spec.benchmark.score(Store(folder).predictions(spec)) == result.scores


def test_a_finished_run_is_not_repeated(finished: tuple[RunSpec, Path, Result]) -> None:
    spec, folder, result = finished
    assert (
        _execute(spec, folder, bases=None) == result
    )  # without a base model nothing could have been trained


def test_a_result_of_another_version_is_refused(
    finished: tuple[RunSpec, Path, Result], tmp_path: Path
) -> None:
    spec, _, result = finished
    store = Store(tmp_path)
    store.write_result(spec, result)
    assert store.result(spec) == result
    path = store.directory(spec) / "result.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2', 1))
    with pytest.raises(
        ConfigError, match=r"not a valid result of version 1 \(version: .*move or delete .* to run"
    ):
        store.result(spec)


def test_one_seed_repeats_itself_and_another_does_not(
    finished: tuple[RunSpec, Path, Result], tmp_path: Path
) -> None:
    spec, _, result = finished
    again = _execute(spec, tmp_path / "again")
    assert again.training.losses == result.training.losses
    assert again.scores == result.scores
    other = _execute(RunSpec.model_validate({**spec.model_dump(), "seed": 1}), tmp_path / "other")
    assert other.training.losses != result.training.losses


def test_a_run_does_not_touch_the_base_model_of_the_next(tmp_path: Path) -> None:
    """Full fine-tuning in between must not change what the base row measures."""
    bases = BaseModels()
    before = _execute(_spec("base"), tmp_path / "a", bases=bases)
    _execute(_spec("fft"), tmp_path / "b", bases=bases)
    after = _execute(_spec("base"), tmp_path / "c", bases=bases)
    read = [Store(tmp_path / name).predictions(_spec("base")) for name in "ac"]
    assert read[0] == read[1]
    assert before.scores == after.scores


def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(
    finished: tuple[RunSpec, Path, Result], tmp_path: Path
) -> None:
    """SIGKILL in the middle of the training of a real process; the checkpoint carries the rest."""
    spec, _, uninterrupted = finished
    script = f"""
import os, signal
from pathlib import Path
from repro.runs.bases import BaseModels
from repro.plans.execution import Execution
from repro.runs.runner import execute
from repro.plans.spec import RunSpec
from repro.runs.store import Store

def report(phase, done, total):
    if (phase, done) == ("train", 3):
        os.kill(os.getpid(), signal.SIGKILL)

execute(
    RunSpec.model_validate_json({spec.model_dump_json()!r}), store=Store(Path({str(tmp_path)!r})),
    execution=Execution.model_validate_json({EXECUTION.model_dump_json()!r}),
    bases=BaseModels(), group="test", report=report,
)
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = Store(tmp_path)
    assert store.result(spec) is None
    assert (store.directory(spec) / "checkpoints" / "latest.ckpt").exists()
    seen = []
    result = _execute(spec, tmp_path, report=lambda phase, done, total: seen.append((phase, done)))
    # It starts behind the last checkpoint, and ends like a run that was never killed.
    assert seen[0][0] == "train"
    assert seen[0][1] > 1
    assert result.training.losses == uninterrupted.training.losses
    assert result.scores == uninterrupted.scores


def test_a_failing_probe_is_a_warning_that_cannot_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that is saved wrongly scores well in memory. Its training is kept."""

    def leave_out_a_b(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = read_tensors(path, expected)
        first = next(name for name in found if "lora_B" in name)
        return found | {first: torch.zeros_like(found[first])}

    monkeypatch.setattr(base, "read_tensors", leave_out_a_b)
    spec = _spec("lora")
    faster = spec.training.model_copy(update={"learning_rate": 0.05})
    spec = spec.model_copy(update={"training": faster})
    result = _execute(spec, tmp_path)
    (warning,) = [w for w in result.warnings if "probe" in w]
    assert warning.startswith("probe 'reloaded = in memory' failed")
    assert Store(tmp_path).result(spec) == result  # what is read back is believed
    silent = result.model_copy(update={"warnings": ()})
    Store(tmp_path).write_result(spec, silent)
    with pytest.raises(DamagedFile, match="its warnings do not say so"):
        Store(tmp_path).result(spec)


def test_a_run_is_scored_unmerged_where_the_profile_says_so(
    finished: tuple[RunSpec, Path, Result], tmp_path: Path
) -> None:
    spec, _, merged = finished
    unmerged = _execute(spec, tmp_path, execution=EXECUTION.model_copy(update={"score": "unmerged"}))
    assert (merged.evaluation.merged, unmerged.evaluation.merged) == (True, False)
    assert {probe.name for probe in merged.probes} - {probe.name for probe in unmerged.probes} == {
        "merged = unmerged"
    }
    assert unmerged.training.losses == merged.training.losses


def test_generation_goes_the_whole_way(tmp_path: Path) -> None:
    from repro.benchmarks.commonsense.settings import GenerateSettings

    spec = _spec("lora")
    protocol = GenerateSettings(beams=2, max_new_tokens=4)
    benchmark = spec.benchmark.model_copy(
        update={"protocol": protocol, "tasks": ("boolq", "piqa"), "max_tokens": 2048}
    )
    result = _execute(spec.model_copy(update={"benchmark": benchmark}), tmp_path)
    # Random weights say nothing that can be read, and the result warns of it.
    assert result.scores["boolq"].unparsed == 1.0
    assert result.scores["boolq"].value == 0.0
    assert any("could not be read" in warning for warning in result.warnings)


def test_wandb_is_offline_and_its_run_is_known_by_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run must continue its W&B run, so the id is the run's own; without a word nothing is sent."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    spec = _spec("base")
    _execute(spec, tmp_path, execution=EXECUTION.model_copy(update={"wandb": True}))
    (folder,) = (Store(tmp_path).directory(spec) / "wandb").glob("offline-run-*")
    assert folder.name.endswith(spec.hash)


def test_a_failure_closes_its_wandb_run(tmp_path: Path) -> None:
    import wandb

    spec = _spec("lora")
    broken = spec.training.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(FloatingPointError):
        _execute(
            spec.model_copy(update={"training": broken}),
            tmp_path,
            execution=EXECUTION.model_copy(update={"wandb": True}),
        )
    assert wandb.run is None  # an open one would swallow the next run's numbers
