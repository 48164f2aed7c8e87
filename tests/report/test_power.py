"""Power curves of runs with known outcomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro.benchmarks.base import TaskScore
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.report.power import draw_power, power_lines
from repro.runs.result import Result
from repro.runs.states import RunState, State


def states(plan: Plan) -> list[RunState]:
    """All runs finished, with half of 40 items right by chance."""
    rng = np.random.default_rng(0)

    def score() -> TaskScore:
        outcomes = "".join(map(str, rng.integers(0, 2, 40)))
        return TaskScore(
            metric="accuracy", value=50.0, items=40, outcomes=outcomes, unparsed=0, constant=False
        )

    return [
        RunState(
            spec,
            State.DONE,
            Result.model_construct(
                scores={column: score() for column in spec.benchmark.columns},
                data_fingerprints={"test": "same"},
            ),
        )
        for spec in plan.runs.values()
    ]


def test_power_is_told_and_drawn_from_two_seeds_on(tmp_path: Path) -> None:
    one, three = (
        expand(load_experiment("table1"), load_profile("smoke"), list(range(seeds))) for seeds in (1, 3)
    )
    assert "It takes two seeds" in power_lines(one, states(one))[0]
    assert draw_power(one, states(one), tmp_path) == []

    lines = power_lines(three, states(three))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    gains = np.array([[float(cell) for cell in row[1:]] for row in rows if row[0].isdigit()])
    # Fewer points with more items, to the right, and with more seeds, below.
    assert gains.shape == (4, 3)
    assert (np.diff(gains, axis=0) < 0).all() and (np.diff(gains, axis=1) <= 0).all()
    assert lines[-1].startswith("From 3 seeds of 40 items a task.")
    drawn = draw_power(three, states(three), tmp_path)
    assert [path.name for path in drawn] == ["power.png", "power.svg"]
    assert "no true gain" in drawn[1].read_text(encoding="utf-8")
