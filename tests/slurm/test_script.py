"""The batch script, to the letter."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from repro.config import ConfigError
from repro.plans.cluster import Cluster
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.slurm.script import batch_script, environment_of_tasks

GOLDEN = """\
#!/usr/bin/env bash
# Written by `repro submit`. The requested resources come from the profile's `cluster` section.
#SBATCH --job-name=repro-table1-paper-0a1b2c3d
#SBATCH --array=0,2%16
#SBATCH --output='/shared/my results/slurm/repro-table1-paper-0a1b2c3d/%a.log'
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --time=1-12:00:00
#SBATCH --nodes=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --gpus=a100:1
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --qos=long
#SBATCH '--comment=a # b' --exclusive
set -euo pipefail

runs=(
  [0]={first.hash}  # tiny-llama adapter_p seed 0
  [2]='{second.hash} {third.hash}'  # tiny-llama randlora seed 0, tiny-llama lora seed 0
)
export OMP_NUM_THREADS=8
export REPRO_DATA_DIR='/shared/my data'
export WANDB_MODE=offline
# exec, so that SLURM's signals reach the run itself.
exec /opt/python -m repro.cli task table1 --profile paper ${{runs[$SLURM_ARRAY_TASK_ID]}}
"""


def test_the_script_is_this_one() -> None:
    first, second, third = list(expand(load_experiment("table1"), load_profile("smoke")).runs.values())[:3]
    cluster = Cluster(
        partition="gpu", account="lab", time="1-12:00:00", gpus="a100:1", cpus=8, memory="64G", concurrent=16,
        notice=300, options=("--qos=long", "--comment='a # b' --exclusive"),
    )  # fmt: skip
    script = batch_script(
        {0: [first], 2: [second, third]},
        name="repro-table1-paper-0a1b2c3d",
        logs=Path("/shared/my results/slurm/repro-table1-paper-0a1b2c3d"),
        cluster=cluster,
        command=["/opt/python", "-m", "repro.cli", "task", "table1", "--profile", "paper"],
        environment={"REPRO_DATA_DIR": "/shared/my data", "WANDB_MODE": "offline"},
    )
    assert script == GOLDEN.format(first=first, second=second, third=third)


def test_what_is_not_given_is_left_to_the_cluster_and_a_task_executes_its_own_runs() -> None:
    specs = list(expand(load_experiment("table1"), load_profile("smoke")).runs.values())
    script = _script({0: specs[:3], 3: specs[3:5], 4: specs[5:]}, command=["printf", "(%s)", "run of"])
    for option in ("--partition", "--account", "--time", "--mem", "--gpus", "%"):
        assert f"{option}=" not in script
    assert "#SBATCH --array=0,3-4\n" in script
    done = subprocess.run(
        ["bash", "-c", script],
        env={"SLURM_ARRAY_TASK_ID": "3", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"(run of)({specs[3].hash})({specs[4].hash})"


def test_a_run_on_several_nodes_has_a_launcher_on_each() -> None:
    spec = next(iter(expand(load_experiment("table1"), load_profile("smoke")).runs.values()))
    cluster = Cluster(nodes=2, gpus="a100:4", cpus=8)
    script = _script({0: [spec]}, cluster=cluster, command=["repro", "task"])
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--gpus-per-node=a100:4", "--signal=USR1@120"} < set(options)
    done = subprocess.run(
        # Functions in the place of SLURM's commands; exec knows no functions.
        ["bash", "-c", _FAKES + script.replace("exec srun", "srun")],
        env={
            "SLURM_ARRAY_TASK_ID": "0",
            "SLURM_JOB_ID": "20007",
            "SLURM_JOB_NODELIST": "node[3-4]",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    flags = "--export=ALL --nodes=2 --ntasks-per-node=1 --cpus-per-task=8 --kill-on-bad-exit=1"
    assert done.stdout == f"node3 10007: {flags} repro task {spec.hash}\n"


_FAKES = """\
scontrol() { [ "$*" = "show hostnames node[3-4]" ] && printf 'node3\\nnode4\\n'; }
srun() { echo "$(printenv MASTER_ADDR) $(printenv MASTER_PORT): $*"; }
"""


def test_logs_are_written_to_a_folder_with_slurms_own_sign() -> None:
    assert "#SBATCH --output=/a/100%%/%a.log\n" in _script({}, logs=Path("/a/100%"))


@pytest.mark.parametrize("folder", ["/a\n#SBATCH --wrap=x", "/a\rb", "/a\\b", "/a\udcff"])
def test_a_folder_that_a_script_cannot_name_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"\A[^\n]*(not possible in a batch script|backslash)[^\n]*\Z"):
        _script({}, logs=Path(folder))


def test_tasks_get_what_they_need_of_the_environment_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "REPRO_DATA_DIR": "my data; $(touch x)",
        "REPRO_KERNEL": "torch",
        "REPRO_OTHER": "x",
        "HF_HUB_OFFLINE": "1",
        "WANDB_API_KEY": "secret",
        "HF_TOKEN": "secret",
        "PATH": "/usr/bin",
    }
    found = environment_of_tasks(given)
    assert found == {
        "REPRO_DATA_DIR": f"{tmp_path}/my data; $(touch x)",
        "REPRO_KERNEL": "torch",
        "HF_HUB_OFFLINE": "1",
    }
    spec = next(iter(expand(load_experiment("table1"), load_profile("smoke")).runs.values()))
    script = _script({0: [spec]}, environment=found, command=["printenv", "REPRO_DATA_DIR"])
    # Not `printenv REPRO_DATA_DIR HASH`, which would look for a second variable.
    done = subprocess.run(
        ["bash", "-c", script.replace(" ${runs[$SLURM_ARRAY_TASK_ID]}", "")],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/my data; $(touch x)\n"


@pytest.mark.parametrize("value", ["offline\ntouch x", "offline\0", "\udcff", "a\u2028b"])
def test_a_value_that_a_script_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="WANDB_MODE: not possible in a batch script"):
        environment_of_tasks({"WANDB_MODE": value})


def _script(runs: Mapping[int, Sequence[RunSpec]], **changes: Any) -> str:
    settings: dict[str, Any] = {
        "name": "n", "logs": Path("/logs"), "cluster": Cluster(), "command": ["echo"], "environment": {}
    }  # fmt: skip
    return batch_script(runs, **settings | changes)
