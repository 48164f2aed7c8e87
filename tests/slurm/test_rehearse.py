"""`repro rehearse --submit`: a row as a task of SLURM, and what SLURM would refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repro.paths import EXPERIMENTS


@pytest.mark.usefixtures("cluster")
def test_a_row_is_a_task_and_what_slurm_refuses_is_a_line(tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS, experiments)
    file = experiments / "profiles" / "paper.yaml"
    profile = yaml.safe_load(file.read_text())
    profile["cluster"] = {"time": "00:30:00", "cpus": 1, "memory": "2G", "notice": 60}
    profile["models"]["llama3-70b"]["cluster"] = {"memory": "8000G"}  # more than this machine has
    file.write_text(yaml.safe_dump(profile))
    folders = {"REPRO_EXPERIMENTS_DIR": str(experiments), "REPRO_RESULTS_DIR": str(tmp_path / "results")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}

    command = [sys.executable, "-m", "repro.cli", "rehearse", "table1", "--submit"]
    ended = subprocess.run(
        [*command, "--models", "llama-7b,llama3-70b", "--rows", "lora-r16,lora-r32"],
        env=os.environ | folders | offline,
        capture_output=True,
        text=True,
    )

    assert "llama-7b lora-r32: 1 of 1 runs" in ended.stdout, ended.stdout + ended.stderr
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert any(line.startswith("SLURM refuses repro-table1-paper-") for line in lines)
    # The real checkpoint is not in this empty cache, whatever the rehearsal made.
    assert any(line.startswith("model llama-7b: yahma/llama-7b-hf cannot be loaded") for line in lines)
