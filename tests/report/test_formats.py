"""Renderings of a small table made by hand, compared with text written by hand."""

from __future__ import annotations

import csv
import io

import pytest

from repro.analysis.statistics import Estimate
from repro.report.formats import grid, to_csv, to_latex, to_markdown
from repro.report.tables import Table, TableGroup, TableRow


@pytest.fixture
def table() -> Table:
    ours = TableRow(
        id="lora",
        label="LoRA",
        params="0.83",
        values={
            "boolq": Estimate(61.0, 4.0, 2),
            "piqa": Estimate(50.0, 5.0, 2),
            "avg": Estimate(55.5, 3.25, 2),
        },
        runs=(2, 3),
        collapsed=frozenset({"piqa"}),
    )
    missing = TableRow(
        id="dora", label="DoRA", params="0.84", values={"boolq": None, "piqa": None, "avg": None}, runs=(0, 3)
    )
    printed = TableRow(
        id="lora-r32", label="LoRA r=32", params="0.83",
        values={"boolq": Estimate(67.5, None, 1), "piqa": None, "avg": Estimate(76.3, None, 1)},
    )  # fmt: skip
    return Table(
        name="table1",
        title="Table 1: accuracy (%)",
        profile="laptop",
        columns={"boolq": "BoolQ", "piqa": "PIQA", "avg": "Avg."},
        params="Params (%)",
        decimals={},
        groups=(
            TableGroup("Ours: small_model", "measured", "small_model", (ours, missing)),
            TableGroup("Paper: llama-7b", "paper", "llama-7b", (printed,)),
        ),
        notes=("a note & more",),
        watermark="SMOKE RUN",
    )


def test_the_grid_aligns_marks_collapse_and_leaves_holes(table: Table) -> None:
    assert grid(table) == [
        "| Method                | Params (%) | BoolQ |  PIQA |       Avg. | runs |",
        "|-----------------------|-----------:|------:|------:|-----------:|-----:|",
        "| **Ours: small_model** |            |       |       |            |      |",
        "| LoRA                  |       0.83 |  61.0 | 50.0* | 55.5 ± 3.2 |  2/3 |",
        "| DoRA                  |       0.84 |     - |     - |          - |  0/3 |",
        "| **Paper: llama-7b**   |            |       |       |            |      |",
        "| LoRA r=32             |       0.83 |  67.5 |     - |       76.3 |      |",
    ]


def test_markdown_carries_watermark_and_notes(table: Table) -> None:
    text = to_markdown(table)
    assert "**SMOKE RUN**" in text
    assert "- a note & more" in text


def test_csv_has_a_line_a_cell_and_an_empty_value_for_a_hole(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == 9
    assert rows[2] == {
        "table": "table1", "profile": "laptop", "source": "measured", "block": "small_model", "row": "lora",
        "column": "avg", "value": "55.5000", "half_width": "3.2500", "runs": "2",
    }  # fmt: skip
    assert [row["value"] for row in rows[3:6]] == ["", "", ""]
    assert (rows[6]["source"], rows[6]["half_width"], rows[6]["runs"]) == ("paper", "", "")


def test_latex_escapes_and_keeps_the_notes_as_comments(table: Table) -> None:
    lines = to_latex(table).splitlines()
    assert lines[0] == "% Table 1: accuracy (%)"
    assert "% SMOKE RUN" in lines
    assert r"\multicolumn{6}{l}{\textit{Ours: small\_model}} \\" in lines
    assert r"LoRA & 0.83 & 61.0 & 50.0* & 55.5 $\pm$ 3.2 & 2/3 \\" in lines
    assert sum(line.count("{") - line.count("}") for line in lines) == 0
