"""`repro rehearse`: rows of each architecture of the paper, under the paper profile's own settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro.paths import EXPERIMENTS


def rehearse(results: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "repro.cli", "rehearse", *arguments],
        env=os.environ | {"REPRO_RESULTS_DIR": str(results), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


def run_results(results: Path) -> list[dict[str, Any]]:
    files = (results / "rehearsal" / "results" / "runs").glob("*/result.json")
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ("experiment", "rows"),
    [
        ("table1", {"llama-7b": "dual_lora-r16", "llama3-70b": "dual_lora-r8"}),
        ("table2", {"roberta-base": "dual_lora-r8-merged", "deberta-v2-xxlarge": "lora-r16"}),
    ],
)
def test_rows_of_llama_roberta_and_deberta(experiment: str, rows: dict[str, str], tmp_path: Path) -> None:
    chosen = ["--models", ",".join(rows), "--rows", ",".join(rows.values())]
    ended = rehearse(tmp_path, experiment, *chosen, "--jobs", "1")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "These numbers mean nothing" in ended.stdout
    listed = [line.split() for line in ended.stdout.partition("what ran")[2].splitlines()]
    for model, row in rows.items():
        done, _, all_runs = next(words[2:5] for words in listed if words[:2] == [model, f"{row}:"])
        assert done == all_runs
    assert all(f"  {model}: " in ended.stdout.partition("needs")[2] for model in rows)
    for result in run_results(tmp_path):
        spec = result["spec"]
        assert (spec["model"]["source"], spec["benchmark"]["source"]) == ("hub", "hub")
        assert re.fullmatch("[0-9a-f]{40}", result["model_revision"])
    assert (tmp_path / "rehearsal" / "results" / "tables" / "paper").is_dir()


def test_what_cannot_run_is_listed_and_stops_nothing_else(tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS, experiments)
    file = experiments / "models" / "gpt2-large.yaml"
    model = yaml.safe_load(file.read_text())
    model["padding"]["token"] = "<pad>"  # GPT-2 has no such token
    file.write_text(yaml.safe_dump(model))

    chosen = ["table4", "--rows", "dual_lora-r4", "--jobs", "1"]
    ended = rehearse(tmp_path / "results", *chosen, REPRO_EXPERIMENTS_DIR=str(experiments))

    assert ended.returncode == 1
    assert "gpt2-medium dual_lora-r4: 1 of 1 runs" in ended.stdout
    assert "gpt2-large dual_lora-r4: 0 of 1 runs" in ended.stdout
    assert "special token to pad with" in ended.stdout
