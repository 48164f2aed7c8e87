"""The figure of what happens inside the adapters."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.report.diagnostics import draw_diagnostics


@pytest.mark.parametrize(("length", "rows"), [(4, 12), (50, 8), (80, 4)])
def test_the_legend_names_every_row_within_the_figure(
    length: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame(
        {"row": f"{row}".ljust(length, "x"), "step": step, "measure": measure, "value": 1.0 + row}
        for row in range(rows)
        for step in (0, 10)
        for measure in ("flipped", "relative_norm", "merge_error/bf16")
    )
    seen: list[bool] = []

    def look(figure: Figure, *_: object) -> list[Path]:
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        seen.append(box.width <= figure.bbox.width and box.height < figure.bbox.height / 2)
        assert [text.get_text() for text in legend.get_texts()] == list(dict.fromkeys(table["row"]))
        return []

    monkeypatch.setattr("repro.report.diagnostics.save_figure", look)
    draw_diagnostics(expand(load_experiment("questions/direction"), load_profile("smoke")), table, tmp_path)
    assert seen == [True]
