"""The table of ranks, from ranks written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.report.ranks import draw_ranks, rank_table
from repro.runs.known_ranks import RandomRanks, Rank, RunRanks


def made(layer: str, numerical: int, part: str = "update", ceiling: int = 10) -> Rank:
    shape = (ceiling, 2 * ceiling)
    return Rank(
        layer=layer, part=part, shape=shape, numerical=numerical, stable=2, effective=4, spectrum=(1,)
    )


LORA = RunRanks(
    trained=(made("0.q_proj", 2), made("1.q_proj", 4), made("0.up_proj", 2)),
    untrained=(made("0.q_proj", 0), made("1.q_proj", 0), made("0.up_proj", 0)),
)
DUAL = RunRanks(
    trained=(made("0.q_proj", 9), made("0.q_proj", 7, "magnitude")), untrained=(made("0.q_proj", 10),)
)


def test_ranks_are_averaged_over_layers_and_seeds_and_zeros_are_no_ranks(tmp_path: Path) -> None:
    random = RandomRanks(size=10, factors=2, ranks=(made("random.10x10", 10),))
    table = rank_table({"LoRA": [LORA, LORA], "Dual LoRA": [DUAL]}, random).set_index(
        ["row", "state", "part", "module"]
    )
    assert table.loc[("LoRA", "trained", "update", "q_proj"), "numerical"] == 3
    assert table.loc[("LoRA", "trained", "update", "q_proj"), "layers"] == 4
    assert ("LoRA", "untrained", "update", "q_proj") not in table.index
    assert table.loc[("Dual LoRA", "untrained", "update", "q_proj"), "numerical"] == 10
    assert table.loc[("Dual LoRA", "trained", "magnitude", "q_proj"), "ceiling"] == 10
    assert table.loc[("Random, r 2", "untrained", "update", "10x10"), "effective"] == 4
    files = draw_ranks(expand(load_experiment("fig3"), load_profile("smoke")), table.reset_index(), tmp_path)
    assert [file.suffix for file in files] == [".png", ".svg"]


@pytest.mark.parametrize("found", [{}, {"LoRA": []}])
def test_nothing_analysed_is_no_figure(found: dict, tmp_path: Path) -> None:
    planned = expand(load_experiment("fig3"), load_profile("smoke"))
    assert draw_ranks(planned, rank_table(found, None), tmp_path) == []


def test_updates_of_two_rows_look_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("repro.report.ranks.save_figure", lambda figure, *rest: drawn.append(figure) or [])
    planned = expand(load_experiment("fig3"), load_profile("smoke"))
    draw_ranks(planned, rank_table({"LoRA (r=16)": [LORA], "Dual LoRA (r=8)": [DUAL]}, None), tmp_path)
    trained = [
        line
        for line in drawn[0].axes[0].get_lines()
        if line.get_label() in ("LoRA (r=16): update, trained", "Dual LoRA (r=8): update, trained")
    ]
    assert (
        len({line.get_color() for line in trained}) == len({tuple(line.get_ydata()) for line in trained}) == 2
    )
