"""The command line on the smoke profile, with results in a temporary folder."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repro.benchmarks.commonsense import scoring
from repro.cli import main
from repro.paths import EXPERIMENTS, REFERENCE
from repro.plans import experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.runs.bases import BaseModels
from repro.runs.interruption import Interrupted
from repro.runs.runner import execute
from repro.runs.store import Store
from repro.slurm.submissions import Submissions
from repro.training.probes import Probe


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results folder instead of the project's."""
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of Table 1 with three rows, to be edited."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    content = yaml.safe_load((EXPERIMENTS / "table1.yaml").read_text())
    rows = content["stand_in"]["rows"]
    content["stand_in"]["rows"] = [row for row in rows if row["id"] in ("base", "lora", "dual_lora")]
    (folder / "table1.yaml").write_text(yaml.safe_dump(content))
    original = experiment.load_experiment
    monkeypatch.setattr(experiment, "load_experiment", lambda name: original(name, folder))
    return folder


def _run(*arguments: str) -> int:
    return main(["run", "table1", "--profile", "smoke", "--no-wandb", *arguments])


def test_run_fills_the_table_and_a_second_run_trains_nothing(
    results: Path, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run() == 0
    out = capsys.readouterr().out
    assert "0 of 3 runs are done, executing 3" in out
    assert "SMOKE RUN" in out
    for label in ("Base", "LoRA", "Dual LoRA", "Paper: llama-7b"):
        assert label in out
    written = {path.name for path in (results / "tables" / "smoke").iterdir()}
    assert written == {"table1.md", "table1.csv", "table1.tex", "table1-diagnostics.csv"}
    figures = {path.name: path.read_bytes()[:8] for path in (results / "figures" / "smoke").iterdir()}
    assert figures["table1.png"] == b"\x89PNG\r\n\x1a\n"
    assert "SMOKE RUN" in (results / "tables" / "smoke" / "table1.tex").read_text()

    stamps = {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("result.json")}
    assert len(stamps) == 3
    assert _run() == 0
    assert "3 of 3 runs are done, executing 0" in capsys.readouterr().out
    assert stamps == {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("result.json")}


def test_run_takes_the_named_rows_alone_and_the_table_shows_what_is_missing(
    results: Path, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("--rows", "dual*") == 0
    out = capsys.readouterr().out
    assert "0 of 1 runs are done, executing 1" in out
    assert "0/1" in out and "1/1" in out
    whole = (results / "tables/smoke/table1.csv").read_bytes()
    assert main(["render", "table1", "--profile", "smoke", "--rows", "dual*"]) == 0
    assert "selection/tables/smoke/table1.csv" in capsys.readouterr().out
    assert (results / "tables/smoke/table1.csv").read_bytes() == whole
    assert main(["render", "table1", "--profile", "smoke", "--costs"]) == 0
    assert "train (s)" in capsys.readouterr().out
    assert ",dual_lora,adapter_mb," in (results / "tables/smoke/table1-costs.csv").read_text()
    assert (results / "tables/smoke/table1.csv").read_bytes() == whole
    (file,) = (results / "runs").rglob("result.json")
    assert _run("--rows", "dual*", "--check") == 0
    found = json.loads(file.read_text())
    found["probes"][0] |= {"distance": 1.0, "tolerance": 0.25}
    found["warnings"] = [Probe(**found["probes"][0]).warning]
    file.write_text(json.dumps(found))
    assert _run("--rows", "dual*") == 0
    assert "batch of 1 = batch of N' failed" in (results / "tables/smoke/table1.md").read_text()
    capsys.readouterr()
    assert _run("--rows", "dual*", "--check") == 1
    assert "probe 'batch of 1 = batch of N' failed" in capsys.readouterr().err
    assert _run("--rows", "base,dora") == 2
    assert "unknown row 'dora'; known: base, dual_lora, lora" in capsys.readouterr().err


def test_measured_and_printed_numbers_are_told_apart_in_the_csv(results: Path, experiments: Path) -> None:
    assert _run() == 0
    with (results / "tables" / "smoke" / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["source"] == "measured"]
    assert {row["block"] for row in measured} == {"tiny-llama"}
    assert len(measured) == 3 * 12  # eight tasks, average, gain, and two numbers of the gold answers
    for row in rows:
        assert (row["profile"] == "smoke") == (row["source"] == "measured")
    # Each average is that of its own row's eight cells, and each gain is over the base row's.
    averages: dict[str, float] = {}
    for name in ("base", "lora", "dual_lora"):
        values = {
            row["column"]: float(row["value"]) for row in measured if row["row"] == name and row["value"]
        }
        average, gain = values.pop("avg"), values.pop("gain", 0.0)
        assert 0 < values.pop("prob") < 100
        assert values.pop("log_prob") < 0
        assert average == pytest.approx(sum(values.values()) / 8, abs=1e-3)
        averages[name] = average
        assert gain == pytest.approx(average - averages["base"], abs=1e-3)


def test_a_failing_run_is_kept_and_does_not_stop_the_others(
    results: Path, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((experiments / "table1.yaml").read_text())
    lora = next(row for row in content["stand_in"]["rows"] if row["id"] == "lora")
    good = lora["training"]["learning_rate"]
    lora["training"]["learning_rate"] = 1e30
    (experiments / "table1.yaml").write_text(yaml.safe_dump(content))
    assert _run() == 1
    output = capsys.readouterr()
    assert "FloatingPointError: the training loss is" in output.err
    assert "--retry-failed executes it again" in output.err
    assert len(list((results / "runs").rglob("result.json"))) == 2
    # Missing values are shown as dashes.
    row = next(line for line in output.out.splitlines() if line.startswith("| LoRA "))
    assert row.count(" - ") == 10
    assert row.rstrip(" |").endswith("0/1")

    assert main(["status", "table1", "--profile", "smoke"]) == 1
    assert "FloatingPointError" in capsys.readouterr().out
    # A failed run waits for --retry-failed; with mended settings it is a different run, which is missing.
    assert _run() == 1
    assert "executing 0" in capsys.readouterr().out
    assert _run("--retry-failed") == 1
    failure = json.loads(next((results / "runs").rglob("failure.json")).read_text())
    assert failure["attempts"] == 2
    lora["training"]["learning_rate"] = good
    (experiments / "table1.yaml").write_text(yaml.safe_dump(content))
    assert _run() == 0


def test_score_reads_predictions_again_without_training(
    results: Path, experiments: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run() == 0
    path = next((results / "runs").glob("*--base--*/result.json"))
    before = json.loads(path.read_text())
    monkeypatch.setattr(scoring, "choice", lambda prediction, reading: prediction.gold)
    assert main(["score", "table1", "--profile", "smoke"]) == 0
    after = json.loads(path.read_text())
    assert all(score["value"] == 100 for score in after["scores"].values())
    assert after["training"] == before["training"]


def test_an_unreadable_result_is_reported_and_the_rest_rendered(
    results: Path, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run() == 0
    path = next((results / "runs").glob("*--lora--*/result.json"))
    path.write_text(path.read_text()[:1000])
    assert _run() == 1
    output = capsys.readouterr()
    assert "not a valid result" in output.err
    assert "to run it again" in output.err
    assert "Dual LoRA" in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "tabel1"], "unknown experiment 'tabel1'"),
        (["plan", "table1", "--profile", "labtop"], "unknown profile 'labtop'"),
        (["plan", "table1", "--gpu", "h10"], "unknown GPU 'h10'; known: a100, h100, h200, l40s, rtx4090"),
        (["reference", "--add", "nowhere"], "--add nowhere: no results folder"),
    ],
)
def test_a_wrong_name_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_wrong_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "table1", "--seeds", "one"])
    assert "'one' is not a list of seeds; for example, 0,1,2" in capsys.readouterr().err


def _alone(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A command in its own process, and every module that it imported."""
    code = (
        "import sys; from repro.cli import main\n"
        f"try: status = main({list(arguments)})\n"
        "except SystemExit as end: status = end.code\n"
        "print('imported', *sys.modules, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    done.stderr, _, modules = done.stderr.rpartition("imported ")
    return done, set(modules.split())


HEAVY = {"torch", "transformers", "peft", "lightning", "wandb", "datasets", "scipy.stats"}
DRAWING = {"pandas", "matplotlib"}


# The number of modules replaces time, which cannot be tested on a shared machine: 100 modules take about
# 0.1 s. Measured: 248, 344, 342 and 1,097.
@pytest.mark.parametrize(
    ("arguments", "without", "most"),
    [
        (["--help"], HEAVY | DRAWING | {"numpy"}, 300),
        (["plan", "table1"], HEAVY | DRAWING | {"numpy"}, 400),
        (["status", "table1"], HEAVY | DRAWING | {"numpy"}, 400),
        (["render", "table1"], HEAVY, 1400),
    ],
)
def test_a_command_imports_what_it_needs(
    arguments: list[str], without: set[str], most: int, tmp_path: Path
) -> None:
    _, modules = _alone(*arguments, REPRO_RESULTS_DIR=str(tmp_path))
    assert not without & modules
    assert len(modules) < most


def test_the_paper_profile_is_planned_and_shows_every_row() -> None:
    done, modules = _alone("plan", "table1", "--profile", "paper")
    assert not HEAVY & modules
    for text in (
        "llama3-70b",
        "138,936,320 trained (0.1965 %)",
        "lr=0.001 batch=32 epochs=3",
        "RandLoRA",
        "75 missing",
        "cost of training and test on NVIDIA H100 SXM 80 GB",
    ):
        assert text in done.stdout


DRY_RUN = ["submit", "--dry-run", "--partition", "gpu", "--cpus", "6", "--concurrent", "3"]


@pytest.mark.parametrize("verb", [["status"], DRY_RUN], ids=["status", "submit"])
def test_a_cluster_is_asked_without_torch_and_where_there_is_no_slurm(
    verb: list[str], tmp_path: Path
) -> None:
    done, modules = _alone(
        *[verb[0], "table2", "--profile", "paper", *verb[1:]],
        PATH=str(tmp_path),
        REPRO_RESULTS_DIR=str(tmp_path / "results"),
    )
    assert not HEAVY & modules
    assert not (tmp_path / "results").exists()
    runs = len(expand(experiment.load_experiment("table2"), load_profile("paper")).runs)
    if verb[0] == "submit":
        for text in (
            "#SBATCH --partition=gpu\n",
            "#SBATCH --cpus-per-task=6\n",
            "%3\n",
            "#SBATCH --gpus=1\n",
            "each after the task of repro-table2-",
        ):
            assert text in done.stdout
        assert done.stderr == f"{runs} runs would be submitted\n"
    else:
        assert f"{runs} missing" in done.stdout


def test_submitting_without_slurm_says_where_to(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", "table1", "--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("repro: squeue is not on this machine; submit from a login node")
    assert len(error.splitlines()) == 1
    assert main(["submit", "table1", "--dry-run", "--time", "soon"]) == 2
    assert capsys.readouterr().err.startswith("repro: submit: time: not a time limit (got 'soon'")


def test_a_task_is_one_run_by_hash_or_number(
    results: Path, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["task", "table1", "--profile", "smoke", "--no-wandb"]
    assert main([*arguments, "0"]) == 0
    (path,) = (results / "runs").rglob("result.json")
    assert "--lora--" in path.parent.name
    assert "start 1: " + path.parent.name in capsys.readouterr().err
    before = path.stat().st_mtime_ns
    assert main([*arguments, json.loads(path.read_text())["hash"]]) == 0
    assert path.stat().st_mtime_ns == before
    assert main([*arguments, "3"]) == 2
    assert "no run '3'; allowed: a hash that `repro plan` shows, or 0 to 2" in capsys.readouterr().err


def test_a_task_of_several_runs_loads_their_model_once_and_a_failing_run_stops_no_other(
    results: Path, experiments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from repro.runs import bases

    loaded, original = [], bases.load_model
    monkeypatch.setattr(
        bases, "load_model", lambda *arguments: loaded.append(arguments) or original(*arguments)
    )
    content = yaml.safe_load((experiments / "table1.yaml").read_text())
    rows = {row["id"]: row for row in content["stand_in"]["rows"]}
    rows["lora"]["training"]["learning_rate"] = 1e30
    (experiments / "table1.yaml").write_text(yaml.safe_dump(content))
    task = ["task", "table1", "--profile", "smoke", "--no-wandb", "2", "0", "1", "0"]
    assert main(task) == 1
    # In the plan's order, in which a run comes behind the one that it starts from.
    assert re.search(r"start 1: \S+--lora--\S+, \S+--dual_lora--\S+, \S+--base--", capsys.readouterr().err)
    assert len(loaded) == 1
    assert main(["status", "table1", "--profile", "smoke"]) == 1
    assert re.findall("^[a-z]+", capsys.readouterr().out, re.MULTILINE)[:3] == ["failed", "done", "done"]

    # When the task is started again, what failed in it is tried again only where nothing else is left.
    array = Submissions(results / "slurm")
    plan = expand(experiment.load_experiment("table1"), load_profile("smoke"))
    array.write("array", {0: list(plan.runs.values())}, "script")
    monkeypatch.setenv("SLURM_JOB_NAME", "array")
    (failure,) = (results / "runs").rglob("failure.json")
    (done,) = (results / "runs").glob("*--dual_lora--*/result.json")
    done.unlink()
    before = json.loads(failure.read_text())
    failure.write_text(json.dumps(before | {"when": array.all()[0].written[:19] + "+00:00"}))
    assert main(task) == 1
    assert done.exists() and json.loads(failure.read_text())["attempts"] == 1
    assert main(task) == 1
    assert json.loads(failure.read_text())["attempts"] == 2


def test_runs_of_several_processes_share_no_task(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ["submit", "table1", "--profile", "paper", "--dry-run", "--runs-per-task", "3"]
    assert main(submit) == 2
    assert capsys.readouterr().err == (
        "repro: cluster.runs_per_task is 3, and a run of llama3-70b has 8 processes, which load the model "
        "anew for each run; allowed: 1. Set it to 1 in models.llama3-70b.cluster of profile paper, or submit "
        "these runs apart, without --runs-per-task\n"
    )
    plan = expand(experiment.load_experiment("table1"), load_profile("paper"))
    large = [hash for hash, spec in plan.runs.items() if spec.model.name == "llama3-70b"]
    assert main(["task", "table1", "--profile", "paper", *large[:2]]) == 2
    assert "task: 2 runs, of which one has several processes" in capsys.readouterr().err


def test_a_task_is_cancelled_only_where_all_its_runs_are_of_the_plan(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, profile = experiment.load_experiment("table1"), load_profile("smoke")
    runs = list(expand(table, profile, [0, 1]).runs.values())
    array = {0: runs[:2], 1: [run for run in runs[2:] if run.seed == 0][:2]}
    assert [run.seed for run in array[0]] == [0, 1]
    Submissions(results / "slurm").write("array", array, "script")
    for name, body in [("squeue", "echo 'array|7|0|PENDING|None'; echo 'array|7|1|PENDING|None'"),
                       ("scancel", f'echo "$@" >> {tmp_path}/asked')]:  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["cancel", "table1", "--profile", "smoke", "--seeds", "0"]) == 1
    said = capsys.readouterr()
    assert said.out == "1 tasks cancelled\n"
    assert said.err == "not cancelled: task 7_0 has other runs as well; `scancel 7_0` ends them all\n"
    assert (tmp_path / "asked").read_text() == "7_1\n"
    assert main(["cancel", "table1", "--profile", "smoke", "--seeds", "0,1"]) == 0
    assert (tmp_path / "asked").read_text() == "7_1\n7_0 7_1\n"


@pytest.mark.parametrize(
    ("state", "starts", "requeues"), [("RUNNING", 100, 1), ("RUNNING", 101, 0), ("COMPLETING", 1, 0)]
)
def test_a_task_that_is_told_to_stop_requeues_itself_unless_it_was_cancelled_or_has_done_so_too_often(
    state: str,
    starts: int,
    requeues: int,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def on_stop_signal(*_: object) -> None:
        raise Interrupted

    for name, body in [("squeue", f"echo {state}"), ("scontrol", f'echo "$@" >> {tmp_path}/asked')]:
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(starts - 1))
    monkeypatch.setattr("repro.cli.cluster.execute_here", on_stop_signal)
    assert main(["task", "table1", "--profile", "smoke", "0"]) != 0
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == "requeue 7_3\n" * requeues
    error = capsys.readouterr().err
    assert f"start {starts}: " in error
    assert ("told to stop: requeued, to continue" in error) == bool(requeues)
    assert ("told to stop for good" in error) == (state != "RUNNING")
    assert ("cluster.restarts" in error) == (starts == 101)


def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repro.cli", "run", "table1", "--profile", "smoke", "--no-wandb"]
    environment = {
        **os.environ,
        "REPRO_RESULTS_DIR": str(tmp_path / "results"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        # A shell starts what it puts into the background with Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:
        if line.startswith("[2/9]"):
            process.send_signal(signal.SIGINT)
            break
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("repro: interrupted; run the same command to continue")
    assert 2 <= len(list((tmp_path / "results").rglob("result.json"))) < 9
    assert not list((tmp_path / "results").rglob("failure.json"))


@pytest.mark.parametrize(("table", "row"), [("table1", "dual_lora"), ("table2", "lora"), ("table4", "lora")])
def test_a_run_is_rerun_from_its_file_alone(
    table: str, row: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run of every family is bit-identical, and a changed file is detected."""
    profile = load_profile("smoke")
    planned = expand(experiment.load_experiment(table), profile)
    spec = next(r for r in planned.rows if r.id.startswith(row)).specs[0]
    store = Store(tmp_path / "kept")
    execution = planned.execution(spec).model_copy(update={"wandb": False})
    execute(spec, store=store, execution=execution, bases=BaseModels(), group="test")
    file = store.directory(spec) / "result.json"
    repeat = ["run", "--from", str(file), "--profile", "smoke", "--no-wandb"]

    assert main(repeat) == 0
    out = capsys.readouterr().out
    assert out.startswith("identical\n")
    assert (results / "runs" / spec.slug / "result.json").exists()

    content = json.loads(file.read_text())
    content["training"]["losses"][0] *= 1 + 1e-7
    file.write_text(json.dumps(content))
    assert main(repeat) == 1
    assert capsys.readouterr().out.startswith("NOT the same\n")


def test_a_result_is_not_compared_with_itself(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    committed = next(REFERENCE.glob("runs/*--base--*/result.json"))
    own = results / "runs" / committed.parent.name / "result.json"
    own.parent.mkdir(parents=True)
    own.write_bytes(committed.read_bytes())
    for file in (own, committed):
        assert main(["run", "--from", str(file)]) == 2
        assert f"has the very run of {file}, which would be compared with itself" in capsys.readouterr().err
