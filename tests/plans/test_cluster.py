"""The SLURM resources of a run: accepted values, and messages about invalid ones."""

from __future__ import annotations

import pytest
import yaml

from repro.config import ConfigError, parse
from repro.plans.cluster import Cluster


@pytest.mark.parametrize("time", ["90", "90:00", "24:00:00", "2-12", "2-12:30", "2-12:30:00"])
def test_slurms_forms_of_a_time_are_accepted(time: str) -> None:
    assert Cluster(time=time).time == time


@pytest.mark.parametrize(("gpus", "as_text"), [(0, "0"), (2, "2"), ("4", "4"), ("a100:1", "a100:1")])
def test_gpus_are_a_number_or_one_with_a_type(gpus: object, as_text: str) -> None:
    assert parse({"gpus": gpus}, Cluster, "p").gpus == as_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time: 24:00:00", "time: not a time limit (got 86400; allowed, in quotes: minutes, hours:"),
        ("time: soon", "time: not a time limit (got 'soon'"),
        ("gpus: many", "gpus: not a number of GPUs (got 'many'; allowed: 0, 1, ..., or with a type"),
        ("memory: 64GB", "memory: not a memory size (got '64GB'; allowed: a number and K, M, G or T"),
        ("nodes: 0", "nodes: Input should be greater than or equal to 1 (got 0)"),
        ("concurrent: 0", "concurrent: Input should be greater than or equal to 1 (got 0)"),
        ("runs_per_task: 0", "runs_per_task: Input should be greater than or equal to 1 (got 0)"),
        ("options: [qos=long]", "options.0: not an option of sbatch (got 'qos=long'"),
        ("options: [--qos='long]", 'options.0: not an option of sbatch (got "--qos=\'long"'),
        ('options: ["--qos=a\\nrm"]', "options.0: not possible in a batch script (got '--qos=a\\nrm'"),
        ('partition: "a\\nrm"', "partition: not possible in a batch script (got 'a\\nrm'"),
        ('account: "a\\0"', "account: not possible in a batch script"),
        ('account: "a\\r"', "account: not possible in a batch script"),
        ('account: " "', "account: not possible in a batch script"),
        ('time: "10\\nrm"', "time: not a time limit"),
        ('time: "\\uff11"', "time: not a time limit"),
        ('memory: "2G\\nrm"', "memory: not a memory size"),
        ('gpus: "a100:1\\nrm"', "gpus: not a number of GPUs"),
        ("partion: gpu", "partion: unknown key (got 'gpu'; allowed: account,"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(yaml.safe_load(text), Cluster, "profile")
    assert str(error.value).startswith(f"profile: {message}")
    assert len(str(error.value).splitlines()) == 1
