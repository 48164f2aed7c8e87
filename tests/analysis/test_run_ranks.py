"""Ranks of a trained run, on the smoke profile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from repro.analysis.run_ranks import random_ranks, run_ranks
from repro.config import ConfigError
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.known_ranks import known_run_ranks
from repro.runs.runner import execute
from repro.runs.starting import untrained_model
from repro.runs.store import RunWaits, Store

EXECUTION = Execution(wandb=False, micro_batch_size=4, evaluation_tokens=8192)


def spec(method: str, **training: float) -> RunSpec:
    planned = expand(load_experiment("fig3"), load_profile("smoke"))
    (found,) = next(row.specs for row in planned.rows if row.id == method)
    return found.model_copy(update={"training": found.training.model_copy(update=training)})


def test_a_run_that_learns_nothing_ends_with_the_untrained_ranks(tmp_path: Path) -> None:
    """What is rebuilt from the seed is what the run started from: at next to no rate it ends there."""
    run, store, bases = spec("dual_lora", learning_rate=1e-30), Store(tmp_path), BaseModels()
    with pytest.raises(RunWaits, match="is not done"):
        run_ranks(run, store, bases)
    execute(run, store=store, execution=EXECUTION, bases=bases, group="test")
    assert known_run_ranks(run, store) is None
    found = run_ranks(run, store, bases)
    assert found.trained == found.untrained
    assert len(found.trained) == 2 * 5 * 3  # layers, modules, parts
    assert known_run_ranks(run, store) == found
    stamp = os.stat(store.directory(run) / "ranks.json").st_mtime_ns
    assert run_ranks(run, store, bases) == found
    assert os.stat(store.directory(run) / "ranks.json").st_mtime_ns == stamp


def test_the_untrained_model_has_the_runs_own_seed(tmp_path: Path) -> None:
    run, bases = spec("lora"), BaseModels()
    one, two, other = (
        untrained_model(s, Store(tmp_path), bases).state_dict()
        for s in (run, run, run.model_copy(update={"seed": 1}))
    )
    drawn = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], two[name]) for name in drawn)
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_random_ranks_are_worked_out_once_and_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    found = random_ranks(32, 4, tmp_path)
    assert random_ranks(32, 4, tmp_path) == found
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    with pytest.raises(ConfigError, match="not a valid randomranks"):
        random_ranks(32, 4, tmp_path)
