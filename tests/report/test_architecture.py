"""Figure 1 has the shapes of the built modules."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.report.architecture import draw_architecture, layer_shapes


@pytest.mark.parametrize(("profile", "width", "rank"), [("laptop", 576, 8), ("paper", 4096, 16)])
def test_the_shapes_are_those_of_the_modules(profile: str, width: int, rank: int, tmp_path: Path) -> None:
    planned = expand(load_experiment("table1"), load_profile(profile), [0])
    rows = {row.specs[0].method.name: row.specs[0] for row in reversed(planned.rows)}
    dual = layer_shapes(rows["dual_lora"])
    assert dual.weight == (width, width)
    assert dual.factors == {"A": (rank, width), "B": (width, rank), "C": (rank, width), "D": (width, rank)}
    assert layer_shapes(rows["lora"]).factors == {"A": (2 * rank, width), "B": (width, 2 * rank)}
    _, svg = draw_architecture(planned, tmp_path)
    texts = ["".join(node.itertext()) for node in ElementTree.parse(svg).iter() if node.tag.endswith("text")]
    assert f"B  {width} x {2 * rank}" in texts and f"D  {width} x {rank}" in texts
    trained = 4 * rank * width
    assert f"Dual LoRA: {trained:,} trained beside {width * width:,}" in texts
