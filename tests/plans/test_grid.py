"""Rows that vary: grids, and invalid axes."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.config import ConfigError
from repro.plans.experiment import Row, load_experiment
from repro.plans.grid import check_axes, nested, points
from repro.plans.plan import expand
from repro.plans.profile import load_profile


def test_keys_of_an_axis_change_together_and_axes_multiply() -> None:
    grid = points([{"method.a": (1, 2), "method.b": (20, 10)}, {"training.c": ("x", "y")}])
    assert grid == [
        {"method.a": 1, "method.b": 20, "training.c": "x"},
        {"method.a": 1, "method.b": 20, "training.c": "y"},
        {"method.a": 2, "method.b": 10, "training.c": "x"},
        {"method.a": 2, "method.b": 10, "training.c": "y"},
    ]
    assert nested(grid[0]) == {"method": {"a": 1, "b": 20}, "training": {"c": "x"}}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([{"method.a": (1, 2), "method.b": (1,)}], r"same number of values \(method.a: 2, method.b: 1\)"),
        ([{"method.a": ()}], r"same number of values \(method.a: 0\)"),
        ([{}], "no key"),
        ([{"method.a": (1,)}, {"method.a": (2,)}], "'method.a' is in two axes"),
    ],
)
def test_what_is_no_grid_is_refused(axes: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_axes(axes)


def test_a_row_that_varies_stands_for_rows_told_apart() -> None:
    row = Row(
        id="lora",
        method={"name": "lora", "rank": 4},
        training={"batch_size": 8},
        vary=({"method.rank": (4, 8)}, {"training.learning_rate": (1e-3, 2e-3)}),
    )
    rows = row.points()
    assert [point.id for point in rows] == ["lora-4-0.001", "lora-4-0.002", "lora-8-0.001", "lora-8-0.002"]
    assert rows[1].label == "LoRA, rank 4, learning_rate 0.002"
    assert rows[2].method == {"name": "lora", "rank": 8}
    assert rows[2].training == {"batch_size": 8, "learning_rate": 1e-3}


def test_figure_2_is_the_paper_s_fifteen_ratios_and_shares_table_1_s_runs_under_the_paper_profile() -> None:
    for profile, total, ends, at_constant_scale in [("paper", 32, 2, 15), ("laptop", 16, 1, 5)]:
        planned = expand(load_experiment("fig2"), load_profile(profile), [0])
        curves = {
            name: [row.specs[0].method for row in planned.rows if row.curve == name]
            for name in ("dual_lora", "dual_lora_constant_scale")
        }
        # With a fixed alpha the scale grows from the middle to the ends: 8 / sqrt(15), 16 / sqrt(60).
        growth = {"dual_lora": total / 2 / ((total - ends) * ends) ** 0.5, "dual_lora_constant_scale": 1.0}
        points = {"dual_lora": 15, "dual_lora_constant_scale": at_constant_scale}
        for name, methods in curves.items():
            ratios = [(m.magnitude_rank, m.direction_rank) for m in methods]
            assert len(ratios) == points[name] and all(sum(ratio) == total for ratio in ratios)
            scales = [m.alpha / (m.magnitude_rank * m.direction_rank) ** 0.5 for m in methods]
            assert max(scales) / min(scales) == pytest.approx(growth[name], rel=1e-4)
        sizes = {row.trainable_parameters for row in planned.rows if row.curve}
        assert len(sizes) == 1
        table1 = expand(load_experiment("table1"), load_profile(profile), [0])
        # LoRA and DoRA at two ranks, HiRA, the equal ratio. On the laptop Table 1 has the rates of its sweep.
        assert len(planned.runs.keys() & table1.runs.keys()) == (0 if profile == "laptop" else 6)


def test_an_unknown_experiment_behind_defaults_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\ndefaults: table11\n")
    with pytest.raises(ConfigError, match="unknown experiment 'table11'"):
        load_experiment("mine", tmp_path)


@pytest.mark.parametrize("name", ["table3", "table5", "table6"])
@pytest.mark.parametrize(("profile", "other"), [("laptop", "fig2"), ("paper", "table1")])
def test_ablations_share_the_method_s_own_run(name: str, profile: str, other: str) -> None:
    ours, others = (expand(load_experiment(n), load_profile(profile), [0]) for n in (name, other))
    assert len(ours.runs.keys() & others.runs.keys()) == 1
