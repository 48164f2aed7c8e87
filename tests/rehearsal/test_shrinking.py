"""The tiny copy of `experiments/`: the same runs, by other sizes."""

from __future__ import annotations

from pathlib import Path

from repro.config import read_yaml
from repro.paths import EXPERIMENTS
from repro.plans.experiment import list_experiments, load_experiment
from repro.plans.profile import load_profile
from repro.rehearsal.shrinking import RECORDS, shrink_experiments


def test_the_copy_has_the_same_rows_and_protocols(tmp_path: Path) -> None:
    shrink_experiments(EXPERIMENTS, tmp_path, "paper", accelerator="cpu")

    assert list_experiments(tmp_path) == list_experiments()
    for name in list_experiments():
        real, tiny = load_experiment(name), load_experiment(name, tmp_path)
        assert [[row.id for row in block.rows] for block in tiny.blocks] == [
            [row.id for row in block.rows] for block in real.blocks
        ]
        for key in ("source", "beams", "template", "length_penalty"):
            assert _find(tiny.defaults.benchmark, key) == _find(real.defaults.benchmark, key)
        for key in ("learning_rate", "batch_size", "precision", "selection", "schedule"):
            assert tiny.defaults.training.get(key) == real.defaults.training.get(key)


def test_the_copy_is_small(tmp_path: Path) -> None:
    shrink_experiments(EXPERIMENTS, tmp_path, "paper", accelerator="cpu")

    model = read_yaml(tmp_path / "models" / "llama3-70b.yaml")
    assert model["checkpoint"] == "meta-llama/Meta-Llama-3-70B-Instruct"
    assert model["architecture"]["num_hidden_layers"] == 2
    assert model["architecture"]["num_key_value_heads"] < model["architecture"]["num_attention_heads"]
    data = read_yaml(tmp_path / "data" / "glue.yaml")["sets"]["mnli"]["splits"]
    assert data["train"]["size"] == RECORDS["train"]
    execution = load_profile("paper", tmp_path).execution_for("commonsense", "llama3-70b")
    assert (execution.accelerator, execution.processes, execution.strategy) == ("cpu", 2, "fsdp")


def _find(content: object, key: str) -> object:
    """The value of a key, however deep it lies; None without one."""
    if not isinstance(content, dict):
        return None
    below = (_find(value, key) for value in content.values())
    return content.get(key, next((found for found in below if found is not None), None))
