"""The benchmark at tiny sizes: every ratio is measured, on the layers in its name."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from repro.analysis.ledger import load_ledger
from repro.cli import main
from repro.config import ConfigError
from repro.report.speed import speed_table
from repro.runs.environment import environment
from repro.runs.measurements import Measured, Measurement, Ratio, speed_files
from repro.speed import cpu_layer, layer
from repro.speed.budget import Budget
from repro.speed.conditions import Conditions, Found
from repro.speed.suite import PARTS, Part, chosen_device, measure

SHAPE = layer.Shape(tokens=48, d=64, k=64, rank=8, precision="fp32")


def test_operations_are_those_of_the_formulas() -> None:
    """In units of T d k: 4 with a frozen weight, 6 with a trained one, 4 + 6 R (1/d + 1/k) under LoRA."""
    cases = layer.passes(SHAPE)
    unit = SHAPE.tdk
    counted = {name: layer.counted_flops(run) / unit for name, run in cases.items()}
    per_rank = 1 / SHAPE.d + 1 / SHAPE.k
    assert counted["frozen"] == 4
    assert counted[layer.FLOOR] == 6
    assert counted["LoRA"] == pytest.approx(4 + 6 * SHAPE.rank * per_rank)
    # Three large products; B A and D C in both passes, one rank more for Sign(0); and four gradients.
    small = 2 * (2 * SHAPE.rank + 2 * 1) + 4 * SHAPE.rank
    assert counted["Dual LoRA"] == pytest.approx(6 + small / SHAPE.tokens)
    assert counted["HiRA (peft)"] > 10


def test_dual_lora_keeps_nothing_of_the_weights_size() -> None:
    cases = layer.passes(SHAPE)
    dense = 4 * SHAPE.d * SHAPE.k
    factors = 4 * SHAPE.rank * (SHAPE.d + SHAPE.k)
    given = 4 * SHAPE.tokens * SHAPE.k + dense  # its input and the frozen weight
    assert layer.kept_bytes(cases["Dual LoRA"]) <= given + factors + 64
    assert layer.kept_bytes(cases["HiRA (peft)"]) >= given + dense


def test_the_verb_writes_a_table_with_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path)
    assert main(["bench", "--small", "--device", "cpu", "--only", "layer,step,inference"]) == 0
    table = capsys.readouterr().out
    assert "| Dual LoRA / three products | T 32, d = k = 64, R 4, fp32 |" in table
    assert "| Dual LoRA / LoRA: a training step |" in table
    (file,) = speed_files(tmp_path)
    content = json.loads(file.read_text())
    named = {name for claim in load_ledger().claims if claim.overhead for name in claim.overhead.ratios}
    assert named <= {figure["name"] for figure in content["figures"]}
    assert len(content["figures"]) == table.count("\n| Dual LoRA") + table.count(" / plain: a forward pass |")
    assert {point["name"] for point in content["points"]} >= {"LoRA", "DoRA", "Dual LoRA", "three products"}
    assert file.with_suffix(".png").stat().st_size > 10_000


def test_a_part_that_something_is_missing_for_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)  # as if it were not installed
    measured = measure(["evaluation", "ranks"], small=True)
    assert [figure.name for figure in measured.figures] == ["rank analysis / LAPACK's singular values"]
    (line,) = measured.left_out
    assert line.startswith("evaluation: not measured: the evaluation benchmark needs lm-eval")
    assert line in capsys.readouterr().err


FIGURE = Measurement(name="a / b", at="here", ratio=Ratio(rounds=(1, 3, 2)), target=1.12)


def test_a_part_that_fails_or_runs_late_stops_no_other_and_what_there_is_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first(conditions: Conditions) -> Iterator[Found]:
        yield FIGURE
        raise RuntimeError("CUDA error: an illegal memory access\nand more lines")

    def late(conditions: Conditions) -> Iterator[Found]:
        time.sleep(10)
        yield FIGURE

    def last(conditions: Conditions) -> Iterator[Found]:
        yield "last, large: not measured: too large"
        yield FIGURE

    # The second has a tenth of a second, and its fewest rounds two.
    parts = {"first": Part(first, 1), "late": Part(late, 1e-4), "last": Part(last, 1)}
    monkeypatch.setattr("repro.speed.suite.PARTS", {"cpu": parts})
    kept: list[Measured] = []
    measured = measure(budget=Budget(1000), keep=kept.append)
    assert measured.figures == (FIGURE, FIGURE)
    assert measured.left_out == (
        "first: failed: RuntimeError: CUDA error: an illegal memory access",
        "late: not measured to its end: its time was up",
        "last, large: not measured: too large",
    )
    assert [len(found.figures) for found in kept] == [1, 1, 1, 1, 2]


def test_without_time_everything_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measure(budget=Budget(0))
    assert measured.figures == () and len(measured.left_out) == len(PARTS["cpu"])
    assert measured.left_out[0] == "layer: not measured: no time was left"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "layers"], "unknown part of the benchmark 'layers'; known: evaluation, "),
        (["--device", "tpu"], "unknown device 'tpu'; known: cpu, gpu"),
        (["--minutes", "0"], "'0' is no number of minutes above 0"),
        (["--minutes", "nan"], "'nan' is no number of minutes above 0"),
    ],
)
def test_what_there_is_not_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["bench", *options]) == 2
    except SystemExit as ended:  # argparse
        assert ended.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("there", "asked", "device"),
    [(True, None, "gpu"), (True, "cpu", "cpu"), (True, "gpu", "gpu"), (False, None, "cpu")],
)
def test_a_gpu_is_measured_if_there_is_one(
    there: bool, asked: str | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert chosen_device(asked) == device


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'gpu': torch finds no GPU here; leave --device out"):
        chosen_device("gpu")


def test_a_missed_target_is_said() -> None:
    fast = FIGURE.model_copy(update={"higher_is_better": True})
    text = speed_table(Measured(figures=(FIGURE, fast), points=(), environment=environment()))
    assert "| a / b | here | 2.00 | 1.00 to 3.00 | ≤ 1.12 | missed |" in text
    assert "| ≥ 1.12 | met |" in text


def test_merging_leaves_a_plain_layer() -> None:
    figure = layer.merged(SHAPE, rounds=1)
    assert figure.ratio.median > 0
    assert torch.is_grad_enabled()


def test_a_shape_that_its_precision_makes_too_slow_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in bf16 on a processor without it: nothing of it is computed, and the next shapes are measured."""
    slow, fast = (SHAPE.model_copy(update={"precision": p, "rank": 4}) for p in ("bf16", "fp32"))
    monkeypatch.setattr(cpu_layer, "_SMALL", [slow, fast])
    monkeypatch.setattr(cpu_layer, "seconds_per_tdk", lambda p: 1.0 if p == "bf16" else 1e-9)
    found = list(cpu_layer.figures(Conditions(small=True, budget=Budget(60))))
    assert {figure.at for figure in found if isinstance(figure, Measurement)} == {str(fast)}
    assert [line.partition(": it would")[0] for line in found if isinstance(line, str)] == [
        f"layer, {what}, {slow}: not measured" for what in ("ratios", "points")
    ]
