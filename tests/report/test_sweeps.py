"""The figure of a sweep of which some runs are missing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from repro.analysis.statistics import Estimate
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.report.peaks import peak_table
from repro.report.sweeps import draw_sweep
from repro.report.tables import Table, TableGroup, TableRow

NO_PEAKS = peak_table([], lambda spec: None)


def table_of(planned: Plan, heights: dict[str, float]) -> Table:
    rows = tuple(
        TableRow(
            id=row.id,
            label=row.label,
            params="1",
            values={"avg": Estimate(heights[row.id], 2.0, 1) if row.id in heights else None},
            runs=(1, 1),
        )
        for row in planned.rows
    )
    group = TableGroup("Ours", "measured", planned.rows[0].block, rows)
    return Table("fig2", "A sweep", "smoke", {"avg": "Avg."}, "Params (%)", {}, (group,), ())


@pytest.fixture
def planned() -> Plan:
    return expand(load_experiment("fig2"), load_profile("smoke"))


def test_curves_and_lines_are_named_and_missing_points_left_out(planned: Plan, tmp_path: Path) -> None:
    heights = {"lora-r16": 40.0} | {f"dual_lora-{r1}": 40.0 + r1 for r1 in (1, 5, 15)}
    png, svg = draw_sweep(planned, table_of(planned, heights), NO_PEAKS, tmp_path)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    texts = ["".join(node.itertext()) for node in ElementTree.parse(svg).iter() if node.tag.endswith("text")]
    assert "Dual LoRA" in texts and "LoRA (r=16)" in texts
    assert "DoRA (r=16)" not in texts and "Dual LoRA, constant scale" not in texts
    assert planned.experiment.sweep is not None and planned.experiment.sweep.label in texts


def test_a_sweep_of_a_column_draws_that_column(tmp_path: Path) -> None:
    planned = expand(load_experiment("sweeps/learning_rate_e2e"), load_profile("smoke"))
    table = table_of(planned, {row.id: 40.0 for row in planned.rows})
    assert draw_sweep(planned, table, NO_PEAKS, tmp_path) == []
    (group,) = table.groups
    rows = tuple(replace(row, values={"bleu": row.values["avg"]}) for row in group.rows)
    swept = replace(table, columns={"bleu": "BLEU"}, groups=(replace(group, rows=rows),))
    _, svg = draw_sweep(planned, swept, NO_PEAKS, tmp_path)
    assert "BLEU, 95 % interval" in "".join(ElementTree.parse(svg).getroot().itertext())


def test_equal_results_give_an_equal_figure(planned: Plan, tmp_path: Path) -> None:
    table = table_of(planned, {"dual_lora-3": 41.0})
    first, second = (draw_sweep(planned, table, NO_PEAKS, tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_equal_best_rates_do_not_hide_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("repro.report.sweeps.save_figure", lambda figure, *rest: drawn.append(figure) or [])
    planned = expand(load_experiment("sweeps/rate_curves"), load_profile("smoke"))
    table = table_of(planned, {row.id: 40.0 for row in planned.rows})
    plateau = {"block": planned.rows[0].block, "plateau_low": 0.001, "plateau_high": 0.003, "curvature": 10.0}
    peaks = pd.DataFrame(
        {"row": row, "curve": row, "best": 0.003, "seeds_best": seeds} | plateau
        for row, seeds in (("lora", "0.003, 0.01"), ("dora", "0.003, 0.003"))
    )
    draw_sweep(planned, table, peaks, tmp_path)
    panel = drawn[0].axes[-1]
    assert len({line.get_ydata()[0] for line in panel.get_lines() if line.get_marker() in ("o", "s")}) == 2
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.003", "0.01"]
    assert panel.get_ylabel() == "learning rate"


def test_nothing_measured_is_no_figure(planned: Plan, tmp_path: Path) -> None:
    assert draw_sweep(planned, table_of(planned, {}), NO_PEAKS, tmp_path) == []


def test_a_line_has_one_colour_in_all_panels_and_no_curve_has_it(
    planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[tuple[str, str]]] = []

    def look(figure: Figure, *_: object) -> list[Path]:
        for panel in figure.axes:
            handles, labels = panel.get_legend_handles_labels()
            colours = [handle.lines[0] if hasattr(handle, "lines") else handle for handle in handles]
            drawn.append([(label, line.get_color()) for label, line in zip(labels, colours, strict=True)])
        return []

    monkeypatch.setattr("repro.report.sweeps.save_figure", look)
    heights = {"lora-r16": 40.0, "dora-r16": 41.0, "dual_lora-1": 42.0, "dual_lora-8": 43.0}
    table = table_of(planned, heights)
    printed = [
        ("dora-r32", "DoRA (r=32)"),
        ("lora-r16", "LoRA (r=16)"),
        ("dual_lora-16", "Dual LoRA (r=16)"),
    ]
    rows = tuple(TableRow(i, label, "1", {"avg": Estimate(80.0, None, 1)}, None) for i, label in printed)
    paper = TableGroup("Paper", "paper", "llama3-8b", rows)
    draw_sweep(planned, replace(table, groups=(*table.groups, paper)), NO_PEAKS, tmp_path)
    ours, theirs = map(dict, drawn)
    assert ours["LoRA (r=16)"] == theirs["LoRA (r=16)"] and ours["Dual LoRA"] == theirs["Dual LoRA (r=16)"]
    assert len({*ours.values(), *theirs.values()}) == 4
