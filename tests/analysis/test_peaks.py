"""Peaks and plateaus of curves whose answers are written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from repro.analysis.peaks import Peak, peaks
from repro.benchmarks.base import TaskScore
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.report.peaks import peak_lines, peak_table
from repro.runs.known_curvature import Curvature
from repro.runs.result import Result
from repro.runs.states import RunState, State

ITEMS = 400


@pytest.fixture(scope="module")
def plan() -> Plan:
    return expand(load_experiment("sweeps/rate_curves"), load_profile("smoke"), [0, 1])


def found(plan: Plan, right: Mapping[str, Mapping[float, tuple[int, int]]]) -> dict[str, Peak]:
    """The peaks by curve; `right` says how many items of each task are right, by curve, rate and seed; -1 is
    a run that is missing.

    The first items are right, so that two runs differ in as few items as their counts do.
    """
    states = []
    for row in plan.rows:
        for spec in row.specs:
            counts = right.get(row.curve or "", {}).get(spec.training.learning_rate)
            if counts is None or counts[spec.seed] < 0:
                states.append(RunState(spec, State.MISSING))
                continue
            outcomes = ("1" * counts[spec.seed]).ljust(ITEMS, "0")
            score = TaskScore(
                metric="accuracy", value=1.0, items=ITEMS, outcomes=outcomes, unparsed=0.0, constant=False
            )
            result = Result.model_construct(
                hash=spec.hash,
                scores={column: score for column in spec.benchmark.columns},
                data_fingerprints={"test": "same"},
            )
            states.append(RunState(spec, State.DONE, result))
    return {str(peak.row.curve): peak for peak in peaks(plan, states)}


def same(*rights: int) -> list[tuple[int, int]]:
    return [(right, right) for right in rights]


RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
DUAL_RATES = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]


def test_a_peak_its_plateau_and_its_distance_from_lora(plan: Plan) -> None:
    """Of 400 items, 3 are 0.75 points and 4 are 1 point, which is off the plateau."""
    tops = found(
        plan,
        {
            "lora": dict(zip(RATES, same(200, 236, 237, 240, 237, 239), strict=True)),
            "dora": dict(zip(RATES[:2], same(200, 300), strict=True)),
            "dual_lora": dict(zip(DUAL_RATES, same(240, 230, 243, 244, 200, 243), strict=True)),
        },
    )
    assert list(tops) == ["lora", "dual_lora"]  # two points are no curve
    lora, dual = tops["lora"], tops["dual_lora"]
    assert (lora.label, lora.best, lora.score.mean, lora.points) == ("LoRA", 3e-3, 60.0, 6)
    assert lora.plateau == (1e-3, 3e-2)
    assert (lora.low_end, lora.high_end) == (False, True)
    assert lora.width == pytest.approx(30)
    assert lora.difference is None
    # The gap at 3e-2 ends it: 1e-1 is high again, and not on the plateau.
    assert dual.plateau == (3e-3, 1e-2)
    assert (dual.low_end, dual.high_end) == (False, False)
    assert dual.difference is not None and dual.difference.mean == pytest.approx(1.0)


def test_a_noisy_plateau_is_as_wide_as_one_standard_error(plan: Plan) -> None:
    """Seeds whose differences from the peak are 40 points apart leave an error far above a point."""
    quiet = {1e-4: (100, 100), 3e-4: (190, 190), 1e-3: (200, 200)}
    assert found(plan, {"lora": quiet})["lora"].plateau == (1e-3, 1e-3)
    noisy = quiet | {3e-4: (110, 270)}
    assert found(plan, {"lora": noisy})["lora"].plateau == (3e-4, 1e-3)


def test_every_seed_has_its_own_best(plan: Plan) -> None:
    tops = found(plan, {"hira": {1e-3: (100, 200), 3e-3: (220, 150), 1e-2: (190, 190)}})
    assert tops["hira"].best == 1e-2
    assert tops["hira"].seeds_best == {0: 3e-3, 1: 1e-3}


def test_points_are_compared_on_the_seeds_that_all_of_them_have(plan: Plan) -> None:
    """Seed 1 is 100 items better everywhere: 3e-3, without it, is the best."""
    lora = {1e-3: (200, 300), 3e-3: (220, -1), 1e-2: (190, 290)}
    top = found(plan, {"lora": lora})["lora"]
    assert (top.best, top.score.mean, top.score.runs) == (3e-3, 55.0, 1)
    assert top.seeds_best == {0: 3e-3}
    assert found(plan, {"lora": lora | {1e-2: (-1, 290)}}) == {}  # no seed has all


def test_the_peak_of_a_column_is_its_own(plan: Plan) -> None:
    """Of the items of boolq as many are right as of the other tasks; a column without runs has no peaks."""
    assert plan.experiment.sweep is not None
    right = {"lora": dict(zip(RATES, same(200, 236, 237, 240, 237, 239), strict=True))}

    def of(column: str) -> dict[str, Peak]:
        sweep = plan.experiment.sweep.model_copy(update={"column": column})  # type: ignore[union-attr]
        experiment = plan.experiment.model_copy(update={"sweep": sweep})
        return found(replace(plan, experiment=experiment), right)

    (average,), (boolq,) = found(plan, right).values(), of("boolq").values()
    assert boolq.best == average.best == 3e-3 and boolq.score.mean == pytest.approx(60)
    # One task's items are fewer than eight tasks'.
    assert (boolq.score.half_width or 0) > 2 * (average.score.half_width or 0)
    assert of("none") == {}


def test_the_table_shows_what_is_open_and_curvatures_where_they_are_known(plan: Plan) -> None:
    tops = found(
        plan,
        {
            "lora": dict(zip(RATES, same(200, 236, 237, 240, 237, 239), strict=True)),
            "hira": {1e-3: (200, 200), 3e-3: (220, 220), 1e-2: (190, 190)},
        },
    )
    plain = peak_lines(peak_table(list(tops.values()), lambda spec: None))
    assert plain[0] == "|  | best at | average (%) | best of each seed | plateau | minus LoRA (points) |"
    assert "| 0.003, 0.003 | 0.001 to 0.03 > (30 x) |" in plain[2]

    def curvature(spec: RunSpec) -> Curvature | None:
        if spec.method.name != "hira":
            return None
        largest = 2.0 + spec.seed
        return Curvature(
            start="s", largest=largest, parameters=1, examples=1, targets=1, products=1, seconds=0.0
        )

    lines = peak_lines(peak_table(list(tops.values()), curvature))
    assert [line.split("|")[-2].strip() for line in lines[2:4]] == ["-", "2.5"]
    assert peak_lines(peak_table([], curvature)) == []
    alone = peak_lines(peak_table([tops["lora"]], lambda spec: None))
    assert alone[0] == "|  | best at | average (%) | best of each seed | plateau |"
