"""`repro submit` on a real SLURM: runs that complete, fail, are killed or cancelled, stop, and continue."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml

from repro.paths import EXPERIMENTS, ROOT
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store

pytestmark = pytest.mark.slurm

# Training steps of a run that is met while it goes on: it is held at its fifth step as long as there is
# a file. Python reads this as it starts.
STEPS = 24
HELD = """
import pathlib, time
from repro.runs.progress import Watch

report, hold = Watch.report, pathlib.Path(__file__).with_name("hold")

def held(self, phase, done, total):
    report(self, phase, done, total)
    while phase == "train" and done == 5 and hold.exists():
        time.sleep(0.1)

Watch.report = held
"""


class Clone:
    """A user's copy of the experiments, with its own results, in folders whose names need quoting."""

    def __init__(self, folder: Path, cluster: Any) -> None:
        self.folder = folder
        self.experiments = folder / "my experiments"
        self.results = folder / "my results"
        self.store = Store(self.results / "runs")
        self.wait = cluster.wait
        copytree(EXPERIMENTS, self.experiments)
        (folder / "sitecustomize.py").write_text(HELD)
        self.hold = folder / "hold"
        self.environment = {
            **os.environ,
            "REPRO_EXPERIMENTS_DIR": str(self.experiments),
            "REPRO_RESULTS_DIR": str(self.results),
            "PYTHONPATH": f"{folder}:{ROOT}",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.experiments / name
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))

    def repro(self, verb: str, experiment: str, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a command on the smoke profile."""
        done = subprocess.run(
            [sys.executable, "-m", "repro.cli", verb, experiment, "--profile", "smoke", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def submit(self, experiment: str, *arguments: str) -> int:
        """How many runs were submitted."""
        status, out = self.repro("submit", experiment, "--no-wandb", *arguments)
        assert status == 0, out
        return int(out.splitlines()[-1].split()[0])

    def status(self, experiment: str) -> dict[str, tuple[str, str]]:
        """State and detail of every run, by its slug."""
        _, out = self.repro("status", experiment)
        lines = [line.split(None, 2) for line in out.splitlines()[:-1]]
        return {line[1]: (line[0], line[2] if len(line) > 2 else "") for line in lines}

    def states(self, experiment: str) -> Counter[str]:
        return Counter(state for state, _ in self.status(experiment).values())

    def task(self, experiment: str, spec: RunSpec) -> str:
        """SLURM's name for the task that executes a run, once it is held."""
        checkpoint = self.store.directory(spec) / "checkpoints" / "latest.ckpt"
        self.wait(checkpoint.exists, "a checkpoint", 240)
        state, detail = self.status(experiment)[spec.slug]
        assert state == "running", detail
        found = re.match(r"task (\d+_\d+)", detail)
        assert found is not None, detail
        return found.group(1)

    def finish(self) -> None:
        """Wait for the end of every task."""
        self.wait(lambda: not _squeue(), "an empty queue", 480)

    def logs(self) -> dict[str, str]:
        """What the tasks of each run said, by its hash."""
        said: dict[str, str] = {}
        for path in sorted((self.results / "slurm").glob("*/runs.json")):
            for index, hashes in json.loads(path.read_text())["runs"].items():
                log = path.parent / f"{index}.log"
                for hash in hashes:
                    said[hash] = said.get(hash, "") + (log.read_text() if log.exists() else "")
        return said


def _squeue() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def _signal(name: str, task: str) -> None:
    """As SLURM does before a limit or a preemption: signal the process of the batch script."""
    subprocess.run(["scancel", "--batch", f"--signal={name}", task], check=True)


def _limit(task: str, minutes: int) -> None:
    subprocess.run(["scontrol", "update", f"JobId={task}", f"TimeLimit={minutes}"], check=True)


def _minutes(task: str) -> int:
    """Whole minutes that a task has run."""
    command = ["squeue", "--noheader", f"--jobs={task}", "--format=%M"]
    *hours, minutes, _ = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(":")
    return 60 * sum(map(int, hours)) + int(minutes)


@pytest.fixture
def clone(cluster: Any, tmp_path: Path) -> Clone:
    return Clone(tmp_path, cluster)


def _keep_rows(*ids: str, **changes: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Keeps these rows, with overrides by id."""

    def change(content: dict[str, Any]) -> None:
        rows = {row["id"]: row for row in content["stand_in"]["rows"]}
        content["stand_in"]["rows"] = [rows[name] | changes.get(name, {}) for name in ids]

    return change


def _make_long(clone: Clone) -> None:
    def change(content: dict[str, Any]) -> None:
        # In batches of 8, and 4 records are held out.
        content["families"]["commonsense"]["benchmark"]["train_per_task"] = STEPS
        content["families"]["commonsense"]["training"]["validate_every"] = 7

    clone.edit("profiles/smoke.yaml", change)


def _specs(clone: Clone, experiment: str) -> list[RunSpec]:
    profile = load_profile("smoke", clone.experiments)
    return list(expand(load_experiment(experiment, clone.experiments), profile).runs.values())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunSpec], Result]:
    """The result of a long run that nobody disturbs."""
    store, bases = Store(tmp_path_factory.mktemp("uninterrupted")), BaseModels()
    execution = Execution(micro_batch_size=4, evaluation_tokens=8192, wandb=False)
    return lambda spec: execute(spec, store=store, execution=execution, bases=bases, group="test")


def _assert_same(found: Result | None, expected: Result) -> None:
    assert found is not None
    assert expected.training.steps == STEPS
    assert found.training.losses == expected.training.losses
    assert found.training.validation_losses == expected.training.validation_losses
    assert found.scores == expected.scores


def test_two_submissions_at_once_execute_every_run_once_and_a_failing_one_stops_no_other(
    clone: Clone,
) -> None:
    broken = {"training": {"learning_rate": 1e30}}
    clone.edit(
        "table1.yaml", _keep_rows("base", "lora", "lora_plus", "dora", "hira", "dual_lora", lora_plus=broken)
    )
    command = [sys.executable, "-m", "repro.cli", "submit", "table1", "--profile", "smoke", "--no-wandb"]
    both = [
        subprocess.Popen(
            command, env=clone.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    # The cluster takes arrays of five.
    assert sorted(out.splitlines()[-1] for out in said) == ["0 runs submitted", "6 runs submitted"]
    assert Counter(re.findall(r"(\d) tasks", "".join(said))) == {"5": 1, "1": 1}
    assert clone.states("table1").keys() <= {"running", "pending", "done"}
    clone.finish()

    assert clone.states("table1") == {"done": 5, "failed": 1}
    (detail,) = (detail for state, detail in clone.status("table1").values() if state == "failed")
    assert detail.startswith("FloatingPointError: the training loss is")
    assert all(text.count("start ") == 1 for text in clone.logs().values())

    assert clone.submit("table1") == 0
    assert clone.submit("table1", "--retry-failed") == 1
    clone.finish()
    (detail,) = (detail for state, detail in clone.status("table1").values() if state == "failed")
    assert detail.endswith("(attempt 2)")
    # `repro run` finds the cluster's results.
    status, out = clone.repro("run", "table1", "--rows", "base,lora,dora,hira,dual_lora", "--no-wandb")
    assert status == 1 and "5 of 5 runs are done, executing 0" in out and "| Dual LoRA " in out


def test_a_run_waits_for_the_one_that_it_starts_from_and_for_no_other(clone: Clone) -> None:
    first = {"init_from": {"task": "sst2", "tasks": ["mrpc"], "reading": "own"}}
    broken = first | {"training": {"learning_rate": 1e30}}
    clone.edit("table2.yaml", _keep_rows("lora", "lora_plus", lora=first, lora_plus=broken))
    clone.edit(
        "profiles/smoke.yaml",
        lambda content: content["families"]["glue"]["benchmark"].update(tasks=["sst2", "mrpc"]),
    )
    assert clone.submit("table2") == 4
    # Why a task waits is known once SLURM's scheduler has looked at it, a second or two later.
    for _ in range(60):
        waiting = [detail for state, detail in clone.status("table2").values() if state == "pending"]
        if sum(detail.endswith(": Dependency") for detail in waiting) == 2:
            break
        time.sleep(0.5)
    else:
        pytest.fail(f"two tasks should wait for others: {waiting}")
    clone.finish()
    specs = {(spec.method.name, spec.task): spec for spec in _specs(clone, "table2")}
    parent, child = (clone.store.result(specs["lora", task]) for task in ("sst2", "mrpc"))
    assert parent is not None and child is not None
    # The other row's first run failed, so its second could not start.
    states = clone.status("table2")
    assert states[specs["lora_plus", "sst2"].slug][0] == "failed"
    assert states[specs["lora_plus", "mrpc"].slug] == ("missing", "")
    assert clone.submit("table2") == 0


def test_a_killed_task_is_lost_and_a_second_submission_takes_it_up(
    clone: Clone, uninterrupted: Callable[[RunSpec], Result]
) -> None:
    clone.edit("table1.yaml", _keep_rows("lora"))
    _make_long(clone)
    clone.hold.touch()
    (spec,) = _specs(clone, "table1")
    assert clone.submit("table1") == 1
    _signal("KILL", clone.task("table1", spec))
    clone.finish()
    clone.hold.unlink()
    state, detail = clone.status("table1")[spec.slug]
    assert state == "lost"
    assert detail.endswith("0.log)")
    assert clone.submit("table1") == 1
    clone.finish()
    _assert_same(clone.store.result(spec), uninterrupted(spec))
    assert not list(clone.store.directory(spec).glob("failure.json"))


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_task_that_is_told_to_stop_requeues_itself_alone_and_goes_on(
    name: str, clone: Clone, uninterrupted: Callable[[RunSpec], Result]
) -> None:
    clone.edit("table1.yaml", _keep_rows("lora", "dual_lora"))
    _make_long(clone)
    clone.hold.touch()
    told, other = _specs(clone, "table1")
    assert clone.submit("table1") == 2
    _signal(name, clone.task("table1", told))
    clone.hold.unlink()
    clone.finish()
    for spec in (told, other):
        _assert_same(clone.store.result(spec), uninterrupted(spec))
    logs = clone.logs()
    # SLURM may add a line about the requeue, even before this one's end.
    stopped, _, went_on = logs[told.hash].partition(
        "told to stop: requeued, to continue from the last checkpoint"
    )
    assert "start 1: " in stopped and "start 2: " in went_on
    assert "start 2" not in logs[other.hash]


def test_a_task_of_several_runs_goes_on_with_the_one_that_was_stopped(
    clone: Clone, uninterrupted: Callable[[RunSpec], Result]
) -> None:
    broken = {"training": {"learning_rate": 1e30}}
    clone.edit("table1.yaml", _keep_rows("lora_plus", "lora", "dual_lora", lora_plus=broken))
    _make_long(clone)
    clone.hold.touch()
    failing, stopped, last = _specs(clone, "table1")
    assert clone.submit("table1", "--runs-per-task", "3") == 3
    task = clone.task("table1", stopped)
    states = clone.status("table1")
    assert states[failing.slug][0] == "failed"
    assert states[last.slug] == ("pending", f"task {task}: after another run of this task")
    _signal("USR1", task)
    clone.hold.unlink()
    clone.finish()
    for spec in (stopped, last):
        _assert_same(clone.store.result(spec), uninterrupted(spec))
    assert clone.status("table1")[failing.slug][1].endswith("(attempt 1)")
    log = clone.logs()[last.hash]
    assert log == clone.logs()[failing.hash]
    assert "[3/3]" not in log.partition("start 2: ")[0] and "[2/2] tiny-llama dual_lora" in log


def test_a_run_goes_on_behind_its_time_limit(
    clone: Clone, uninterrupted: Callable[[RunSpec], Result]
) -> None:
    clone.edit("table1.yaml", _keep_rows("lora"))
    clone.edit("profiles/smoke.yaml", lambda content: content["cluster"].update(time="60", notice=120))
    _make_long(clone)
    clone.hold.touch()
    (spec,) = _specs(clone, "table1")
    assert clone.submit("table1") == 1
    task = clone.task("table1", spec)
    # However long the start took: one to two minutes from now.
    _limit(task, _minutes(task) + 2)
    # SLURM looks twice a minute and sends the notice, which the run keeps until its step ends.
    time.sleep(40)
    _limit(task, 60)
    clone.hold.unlink()
    clone.finish()
    _assert_same(clone.store.result(spec), uninterrupted(spec))
    assert "told to stop: requeued, to continue from the last checkpoint" in clone.logs()[spec.hash]
    assert "start 2: " in clone.logs()[spec.hash]


def test_a_run_makes_room_for_an_urgent_job_and_goes_on_behind_it(
    clone: Clone, uninterrupted: Callable[[RunSpec], Result]
) -> None:
    clone.edit("table1.yaml", _keep_rows("dual_lora"))
    _make_long(clone)
    clone.hold.touch()
    (spec,) = _specs(clone, "table1")
    assert clone.submit("table1", "--partition", "main") == 1
    clone.task("table1", spec)
    urgent = ["sbatch", "--partition=urgent", f"--cpus-per-task={os.cpu_count()}", "--mem=100", "--time=1"]
    script = ["--output", str(clone.folder / "urgent.log"), "--wrap", "echo was here"]
    subprocess.run([*urgent, *script], check=True)
    # The scheduler looks every second; the partition then gives a minute.
    time.sleep(5)
    clone.hold.unlink()
    clone.finish()
    _assert_same(clone.store.result(spec), uninterrupted(spec))
    assert (clone.folder / "urgent.log").read_text() == "was here\n"
    assert "told to stop: requeued, to continue from the last checkpoint" in clone.logs()[spec.hash]
    assert "PREEMPTION" not in clone.logs()[spec.hash]  # it stopped before it was killed


def test_a_run_on_two_nodes_of_two_processes_is_that_of_one(clone: Clone, tmp_path: Path) -> None:
    def spread(content: dict[str, Any]) -> None:
        content["execution"] |= {"nodes": 2, "devices": 2, "strategy": "fsdp"}
        content["cluster"] |= {"nodes": 2, "partition": "pair"}

    clone.edit("table1.yaml", _keep_rows("dual_lora"))
    clone.edit("profiles/smoke.yaml", spread)
    (spec,) = _specs(clone, "table1")
    assert clone.submit("table1") == 1
    clone.finish()
    found = clone.store.result(spec)
    assert found is not None, clone.logs()
    assert (found.environment.devices, found.environment.strategy) == (4, "fsdp")
    one = Execution(micro_batch_size=4, evaluation_tokens=8192, wandb=False)
    expected = execute(spec, store=Store(tmp_path), execution=one, bases=BaseModels(), group="test")
    assert found.scores == expected.scores
    # Close, not equal: four addends have several sums.
    assert found.training.losses == pytest.approx(expected.training.losses, rel=1e-5)


def test_the_script_for_plain_sbatch_executes_run_n_in_task_n(clone: Clone) -> None:
    clone.edit("table1.yaml", _keep_rows("base", "lora"))
    (clone.folder / ".venv").symlink_to(sys.prefix)
    sbatch = ["sbatch", "--array=0-1", "--mem=2G", "--cpus-per-task=1", "--time=10"]
    script = [ROOT / "scripts" / "slurm_array.sbatch", "table1", "smoke", "--no-wandb"]
    subprocess.run([*sbatch, *script], cwd=clone.folder, env=clone.environment, check=True)
    clone.finish()
    assert clone.states("table1") == {"done": 2}
    logs = [path.read_text() for path in sorted(clone.folder.glob("slurm-*.log"))]
    assert [spec.slug in log for spec, log in zip(_specs(clone, "table1"), logs, strict=True)] == [True, True]


def test_a_cancelled_experiment_stays_cancelled(clone: Clone) -> None:
    clone.edit("table1.yaml", _keep_rows("base", "lora", "dora", "dual_lora"))
    _make_long(clone)
    clone.hold.touch()
    specs = _specs(clone, "table1")
    assert clone.submit("table1", "--concurrent", "2") == 4
    clone.task("table1", specs[1])
    status, out = clone.repro("cancel", "table1")
    clone.hold.unlink()
    assert status == 0 and re.search(r"^[34] tasks cancelled$", out)
    clone.finish()
    assert "start 2" not in "".join(clone.logs().values())
    states = clone.status("table1")
    state, detail = states[specs[1].slug]
    assert state == "lost"
    assert detail.startswith("told to stop for good, not requeued (") or "CANCELLED" in detail
    assert states[specs[3].slug] == ("missing", "")
    assert clone.repro("cancel", "table1")[1] == "0 tasks cancelled\n"
