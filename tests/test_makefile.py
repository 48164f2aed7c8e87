"""The Makefile's targets: each experiment has every verb, and a word means the same in all of them."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from repro.paths import ROOT
from repro.plans.experiment import list_experiments

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VERBS = {
    "run": "run",
    "plan": "plan",
    "status": "status",
    "render": "render",
    "score": "score",
    "slurm": "submit",
    "cancel": "cancel",
    "fetch": "fetch",
}


def run_make(*arguments: str) -> list[str]:
    """The lines that make prints.

    `make test` hands MAKEFLAGS and MAKELEVEL down. With them this make would also print which directory it
    enters.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    made = subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return made.stdout.splitlines()


def make(*arguments: str) -> list[str]:
    """The commands that make would run, as if the environment were built."""
    return run_make("--dry-run", "--old-file=.venv/.ready", "PROFILE=smoke", *arguments)


@pytest.mark.parametrize("experiment", list_experiments())
def test_every_experiment_has_every_verb(experiment: str) -> None:
    name = experiment.replace("s/", "-")
    called = [f".venv/bin/repro {verb} {experiment} --profile smoke --no-wandb" for verb in VERBS.values()]
    assert make(*(f"{target}-{name}" for target in VERBS), "ARGS=--no-wandb") == called


@pytest.mark.parametrize("experiment", list_experiments())
def test_the_name_alone_trains_what_is_missing(experiment: str) -> None:
    name = experiment.replace("s/", "-")
    assert make(name)[0].rstrip() == f".venv/bin/repro run {experiment} --profile smoke"


def test_fig2_has_a_second_name() -> None:
    assert make("fig2-sweep") == make("fig2")


def test_help_lists_every_target() -> None:
    shown = "\n".join(run_make())
    listed = re.findall(r"^  make (\S+) +\S", shown, flags=re.MULTILINE)
    rules = re.findall(r"^([a-z0-9.%-]+): ", MAKEFILE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(rules)
    for kind in ("sweep", "question"):
        line = re.search(rf"{kind}-% .*", shown)
        assert line is not None
        names = [
            name.removeprefix(f"{kind}s/") for name in list_experiments() if name.startswith(f"{kind}s/")
        ]
        assert names and [name for name in names if name not in line.group()] == []


def test_test_gpu_runs_what_sees_the_gpu_and_then_what_test_runs() -> None:
    first, *rest = (line.rstrip() for line in make("test-gpu"))
    assert first == "REPRO_TEST_GPU=1 .venv/bin/python -m pytest"
    assert [line for line in rest if "pytest" in line] == [
        line.rstrip() for line in make("test") if "pytest" in line
    ]


def test_what_test_quick_names_exists() -> None:
    named = [word for word in make("test-quick")[-1].split() if word.startswith("tests/")]
    assert named
    for word in named:
        path, _, function = word.partition("::")
        assert (ROOT / path).exists(), word
        assert not function or f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), word
