"""The size of updates, and gains beside it, from diagnostics and answers that are written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from repro.analysis.norms import NormPoint, norm_points
from repro.benchmarks.base import TaskScore
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.report.norms import draw_norms, kind_of, norm_lines, norm_table
from repro.runs.json_files import write_json
from repro.runs.norms import Norm, known_norm, norm_of
from repro.runs.result import Result
from repro.runs.states import RunState, State
from repro.runs.store import DIAGNOSTICS, NORM, Store
from repro.training.diagnostics import Diagnostics

ITEMS = 100


def snapshots(*layers: tuple[float, float]) -> Diagnostics:
    """Two snapshots of layers with a final norm of dW and a norm of W0; dW is 0 at the first."""
    return Diagnostics(
        steps=(0, 5),
        layers={
            str(i): {"update_norm": (0.0, update), "relative_norm": (0.0, update / weight)}
            for i, (update, weight) in enumerate(layers)
        },
        merge_errors={},
    )


def test_norms_are_taken_over_all_layers_together() -> None:
    found = norm_of(snapshots((3.0, 20.0), (4.0, 15.0)))
    assert found is not None
    assert found.update == pytest.approx(5.0)
    assert found.weight == pytest.approx(25.0)
    assert found.relative == pytest.approx(0.2)


def test_a_layer_whose_weight_is_not_known_leaves_no_norm() -> None:
    nothing = {"update_norm": (0.0, 0.0), "relative_norm": (0.0, 0.0)}
    one = snapshots((3.0, 20.0))
    assert norm_of(one.model_copy(update={"layers": one.layers | {"other": nothing}})) is None
    assert norm_of(one.model_copy(update={"layers": {}})) is None


def done(spec: RunSpec, right: int) -> RunState:
    score = TaskScore(
        metric="accuracy", value=1.0, items=ITEMS, outcomes=("1" * right).ljust(ITEMS, "0"),
        unparsed=0.0, constant=False,
    )  # fmt: skip
    result = Result.model_construct(
        hash=spec.hash,
        scores={column: score for column in spec.benchmark.columns},
        data_fingerprints={
            "test": "held out" if getattr(spec.benchmark, "evaluated", "") == "held_out" else "test"
        },
    )
    return RunState(spec, State.DONE, result)


@pytest.fixture
def found(tmp_path: Path) -> list[NormPoint]:
    """LoRA at two sizes and seeds, Dual LoRA near one of them, HiRA near none; all 40 % untrained."""
    store = Store(tmp_path / "runs")
    profile = load_profile("smoke")
    names = ("sweeps/rate_curves", "table1")
    plans: dict[str, Plan] = {name: expand(load_experiment(name), profile, [0, 1]) for name in names}
    written = {
        "lora-0.001": (0.01, 45),
        "lora-0.01": (0.1, 60),
        "dual_lora-0.003": (0.11, 63),
        "hira-0.1": (0.5, 50),
    }
    states: dict[str, list[RunState]] = {}
    for name, plan in plans.items():
        states[name] = []
        for row in plan.rows:
            for spec in row.specs:
                size, right = written.get(row.id, (None, None)) if row.curve else (None, None)
                if row.id == "base":
                    states[name].append(done(spec, 40))
                elif size is None or right is None:
                    states[name].append(RunState(spec, State.MISSING))
                else:
                    states[name].append(done(spec, right + spec.seed))
                    taken = snapshots((size * (1 + 0.1 * spec.seed), 1.0))
                    if row.id.startswith("dual_lora"):
                        taken.layers["0"]["flipped"] = (0.0, 0.2 + 0.1 * spec.seed)
                    write_json(store.directory(spec) / DIAGNOSTICS, taken)
    return norm_points(plans, states, store)


def test_gains_and_norms_are_means_over_seeds(found: list[NormPoint]) -> None:
    table = norm_table(found).set_index("row")
    assert list(table["kind"]) == ["LoRA", "LoRA", "Dual LoRA", "HiRA"]  # by norm
    small = table.loc["LoRA, learning_rate 0.001"]
    assert small["norm"] == pytest.approx(0.0105)
    assert (small["norm_low"], small["norm_high"]) == (pytest.approx(0.01), pytest.approx(0.011))
    assert small["gain"] == pytest.approx(5.5)
    assert small["seeds"] == 2


def test_equal_norm_is_the_nearest_lora_row_within_the_factor(found: list[NormPoint]) -> None:
    table = norm_table(found).set_index("row")
    dual = table.loc["Dual LoRA, learning_rate 0.003"]
    assert dual["near"] == "LoRA, learning_rate 0.01"
    assert dual["difference"] == pytest.approx(3.0)
    assert table.loc["HiRA, learning_rate 0.1", "near"] is None or math.isnan(
        table.loc["HiRA, learning_rate 0.1", "near_norm"]
    )


def test_signs_turned_are_those_of_dual_lora_at_the_end(found: list[NormPoint], tmp_path: Path) -> None:
    table = norm_table(found)
    assert table["turned"].notna().sum() == 1
    assert table.set_index("row").loc["Dual LoRA, learning_rate 0.003", "turned"] == pytest.approx(25.0)
    (line,) = [line for line in norm_lines(found) if line.startswith("| Dual LoRA")]
    assert line.endswith("| 25.0 |")
    _, svg = draw_norms(found, load_profile("smoke"), tmp_path)
    assert "signs of D C that differ" in svg.read_text(encoding="utf-8")
    _, svg = draw_norms([point for point in found if point.turned is None], load_profile("smoke"), tmp_path)
    assert "signs of D C that differ" not in svg.read_text(encoding="utf-8")


def test_the_figure_and_the_lines(found: list[NormPoint], tmp_path: Path) -> None:
    png, svg = draw_norms(found, load_profile("smoke"), tmp_path)
    assert png.stat().st_size > 1000 and "Dual LoRA" in svg.read_text(encoding="utf-8")
    lines = norm_lines(found)
    assert any("LoRA, learning_rate 0.01 (0.105)" in line and "+3.0" in line for line in lines)
    assert draw_norms([], load_profile("smoke"), tmp_path) == []
    assert len(norm_lines([])) == 1


def test_another_form_of_dual_lora_is_a_variant(found: list[NormPoint]) -> None:
    point = next(point for point in found if kind_of(point) == "Dual LoRA")
    plan = expand(load_experiment("table5"), load_profile("smoke"), [0])
    kinds = []
    for row in plan.rows:
        kinds.append(kind_of(NormPoint("table5", row, None, 1.0, (1.0, 1.0), point.gain, point.runs)))
    assert kinds[0] == "Dual LoRA"
    assert set(kinds[1:]) == {"Dual LoRA, variants"}
    plan = expand(load_experiment("questions/direction"), load_profile("smoke"), [0])
    kinds = [kind_of(NormPoint("", row, None, 1.0, (1.0, 1.0), point.gain, point.runs)) for row in plan.rows]
    assert kinds == ["Dual LoRA"] + ["Dual LoRA, variants"] * (len(plan.rows) - 1)


def test_a_kept_norm_stands_for_the_diagnostics(tmp_path: Path) -> None:
    spec = expand(load_experiment("table1"), load_profile("smoke"), [0]).rows[2].specs[0]
    store = Store(tmp_path)
    assert known_norm(spec, store) is None
    write_json(store.directory(spec) / NORM, Norm(update=2.0, weight=8.0))
    kept = known_norm(spec, store)
    assert kept is not None and kept.relative == 0.25
