"""The benchmark at tiny sizes: every ratio is measured, on the layers in its name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from repro.cli import main
from repro.report.speed import speed_table
from repro.speed import layer
from repro.speed.suite import measure

SHAPE = layer.Shape(tokens=48, width=64, rank=8, precision="fp32")


def test_operations_are_those_of_the_formulas() -> None:
    """In units of T d k: 4 with a frozen weight, 6 with a trained one, 4 + 6 R (1/d + 1/k) under LoRA."""
    cases = layer.passes(SHAPE)
    unit = SHAPE.tokens * SHAPE.width**2
    counted = {name: layer.counted_flops(run) / unit for name, run in cases.items()}
    per_rank = 1 / SHAPE.width + 1 / SHAPE.width
    assert counted["frozen"] == 4
    assert counted[layer.FLOOR] == 6
    assert counted["LoRA"] == pytest.approx(4 + 6 * SHAPE.rank * per_rank)
    # Three large products; B A and D C in both passes, one rank more for Sign(0); and four gradients.
    small = 2 * (2 * SHAPE.rank + 2 * 1) + 4 * SHAPE.rank
    assert counted["Dual LoRA"] == pytest.approx(6 + small / SHAPE.tokens)
    assert counted["HiRA (peft)"] > 10


def test_dual_lora_keeps_nothing_of_the_weights_size() -> None:
    cases = layer.passes(SHAPE)
    dense = 4 * SHAPE.width**2
    factors = 4 * 2 * SHAPE.rank * SHAPE.width
    given = 4 * SHAPE.tokens * SHAPE.width + dense  # its input and the frozen weight
    assert layer.kept_bytes(cases["Dual LoRA"]) <= given + factors + 64
    assert layer.kept_bytes(cases["HiRA (peft)"]) >= given + dense


def test_the_verb_writes_a_table_with_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path)
    assert main(["bench", "--small", "--only", "layer,step"]) == 0
    table = capsys.readouterr().out
    assert "| Dual LoRA / three products | T 32, d = k = 64, R 4, fp32 |" in table
    assert "| Dual LoRA / LoRA: a training step |" in table
    content = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert len(content["figures"]) == table.count("\n| Dual LoRA")
    assert {point["name"] for point in content["points"]} >= {"LoRA", "DoRA", "Dual LoRA", "three products"}
    assert (tmp_path / "bench" / "bench.png").stat().st_size > 10_000


def test_an_unknown_part_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", "layers"]) == 2
    assert "unknown part of the benchmark 'layers'; known: evaluation, " in capsys.readouterr().err


def test_a_part_that_something_is_missing_for_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)  # as if it were not installed
    measured = measure(["evaluation", "ranks"], small=True)
    assert [figure.name for figure in measured.figures] == ["rank analysis / LAPACK's singular values"]
    assert "evaluation: not measured: the evaluation benchmark needs lm-eval" in capsys.readouterr().err


def test_a_missed_target_is_said() -> None:
    from repro.runs.environment import environment
    from repro.runs.measurements import Measured, Measurement, Ratio

    slow = Measurement(name="a / b", at="here", ratio=Ratio(rounds=(1, 3, 2)), target=1.12)
    fast = slow.model_copy(update={"higher_is_better": True})
    text = speed_table(Measured(figures=(slow, fast), points=(), environment=environment()))
    assert "| a / b | here | 2.00 | 1.00 to 3.00 | ≤ 1.12 | missed |" in text
    assert "| ≥ 1.12 | met |" in text


def test_merging_leaves_a_plain_layer() -> None:
    figure = layer._merged(SHAPE, rounds=1)
    assert figure.ratio.median > 0
    assert torch.is_grad_enabled()
