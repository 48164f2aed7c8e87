"""Tables at the edges of statistics: no run, no item, one item, unequal seeds, numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.analysis.finished import runs_by_column
from repro.analysis.paired import paired_difference
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.report.figures import draw_table
from repro.report.formats import FORMATS, cell_texts
from repro.report.output import _as_text
from repro.report.scored import scoring_notes
from repro.report.tables import Table, TableRow, build_table
from repro.runs.result import Result
from repro.runs.states import RunState, State

Outcomes = str | tuple[float, ...]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return expand(load_experiment("table1"), load_profile("smoke"), [0, 1])


def state(
    spec: RunSpec,
    outcomes: dict[str, Outcomes] | None,
    truncated: dict[str, float] | None = None,
    gold: tuple[float, ...] = (),
    unparsed: float = 0.0,
) -> RunState:
    """A run that is finished with these outcomes, without the fields that a table does not read."""
    if outcomes is None:
        return RunState(spec, State.MISSING)
    scores = {
        column: {
            "metric": "accuracy", "value": 50.0, "items": len(found), "outcomes": found, "unparsed": unparsed,
            "constant": False, "log_probabilities": gold,
        }
        for column, found in outcomes.items()
    }  # fmt: skip
    from repro.benchmarks.base import TaskScore
    from repro.runs.result import Environment, Evaluation, Training

    result = Result.model_construct(
        hash=spec.hash,
        slug=spec.slug,
        scores={column: TaskScore.model_validate(score) for column, score in scores.items()},
        training=Training(
            steps=1, tokens=1, seconds=1.0, losses=(1.0,), validation_losses=(), truncated=truncated
        ),
        evaluation=Evaluation(seconds=1.0, items=1, merged=False, scorer_version=1, predictions="p"),
        environment=Environment(
            commit=None, dirty=None, python="3", platform="l", hardware="cpu", threads=1, packages={}
        ),
        data_fingerprints={"test": "same"},
        warnings=(),
    )
    return RunState(spec, State.DONE, result)


def build(plan: Plan, outcomes: Callable[[RunSpec], dict[str, Outcomes] | None]) -> Table:
    return build_table(plan, [state(spec, outcomes(spec)) for spec in plan.runs.values()])


def texts(table: Table, label: str) -> list[str]:
    rows: list[TableRow] = [row for group in table.groups if group.source == "measured" for row in group.rows]
    return next(cell_texts(table, row) for row in rows if row.label.partition(" (r=")[0] == label)


def everything_is_written(table: Table, folder: Path) -> str:
    """Every format and the figure. Returns the text for the terminal."""
    for render in FORMATS.values():
        written = render(table)
        assert "nan" not in written.replace("finance", "") and "inf " not in written
    draw_table(table, folder)
    return _as_text(table)


EDGES: dict[str, tuple[Outcomes, str]] = {
    "no items": ("", "-"),
    "no values": ((), "-"),
    "one item": ("1", "100.0"),
    "all right": ("1111", "100.0"),
    "all wrong": ("0000", "0.0"),
    "one value": ((3.5,), "3.5"),
    "equal values": ((2.0, 2.0, 2.0), "2.0"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EDGES)
def test_an_edge_is_a_number_or_a_hole(plan: Plan, name: str, tmp_path: Path) -> None:
    outcomes, shown = EDGES[name]
    table = build(plan, lambda spec: {column: outcomes for column in spec.benchmark.columns})
    everything_is_written(table, tmp_path)
    assert set(texts(table, "LoRA")[2:10]) == {shown}


@pytest.mark.filterwarnings("error")
def test_no_run_at_all_is_a_table_of_holes(plan: Plan, tmp_path: Path) -> None:
    table = build(plan, lambda spec: None)
    everything_is_written(table, tmp_path)
    assert set(texts(table, "LoRA")[2:10]) == {"-"}


@pytest.mark.parametrize("wrong", ["0000", "1111"])
def test_an_average_without_variance_has_an_exact_interval(plan: Plan, wrong: str) -> None:
    """Of eight tasks with four items, as of 32 items: 100 (1 - 0.025^(1 / 32)) = 10.9."""
    table = build(plan, lambda spec: {column: wrong for column in spec.benchmark.columns})
    assert texts(table, "LoRA")[10].endswith("± 10.9")


def test_the_probability_of_gold_answers_stands_behind_the_average(plan: Plan, tmp_path: Path) -> None:
    """By hand: the means over items of 0.5 and 0.25, of 0.75 and 0.25, over both seeds: (37.5 + 50) / 2."""

    def gold(spec: RunSpec) -> tuple[float, ...]:
        if spec.method.name == "lora":
            return (math.log(0.75 if spec.seed else 0.5), math.log(0.25))
        # A row with a run of an older scorer has none.
        return (0.0, 0.0) if spec.method.name == "dual_lora" and spec.seed else ()

    outcomes: dict[str, Outcomes] = dict.fromkeys(plan.columns, "10")
    table = build_table(plan, [state(spec, outcomes, gold=gold(spec)) for spec in plan.runs.values()])
    everything_is_written(table, tmp_path)
    assert list(table.columns)[-1] == "prob" and list(table.columns.values())[-1] == "Prob."
    assert texts(table, "LoRA")[-2].startswith("43.8 ± ")
    assert texts(table, "Dual LoRA")[-2] == texts(table, "HiRA")[-2] == ""
    lines = [line.split(",") for line in FORMATS["csv"](table).splitlines() if ",log_prob," in line]
    assert {line[4] for line in lines} == {"lora"}
    mean = (math.log(0.5) + math.log(0.75) + 2 * math.log(0.25)) / 4
    assert float(lines[0][6]) == pytest.approx(mean, abs=1e-4)
    assert any(note.startswith("'Prob.' is the mean probability of the gold option") for note in table.notes)
    without = build(plan, lambda spec: outcomes)
    assert "prob" not in without.columns and not any("Prob." in note for note in without.notes)


def test_answers_that_could_not_be_read_have_a_column_where_there_are_any(plan: Plan, tmp_path: Path) -> None:
    outcomes = {column: "1100" for column in plan.columns}
    lora = next(row for row in plan.rows if row.id == "lora")
    shares = {lora.specs[0].hash: 0.25, lora.specs[1].hash: 0.5}
    states = [
        state(spec, outcomes, unparsed=shares.get(spec.hash, 0.0)) if spec.method.name != "dora" else
        state(spec, None)
        for spec in plan.runs.values()
    ]  # fmt: skip
    table = build_table(plan, states)
    assert "Unread" in everything_is_written(table, tmp_path)
    assert texts(table, "LoRA")[-2] == "37.5" and texts(table, "Dual LoRA")[-2] == "0.0"
    assert texts(table, "DoRA")[-2] == "-"
    assert "Unread" not in build(plan, lambda spec: outcomes).columns.values()


def test_seeds_with_unequal_items_are_a_hole_with_a_line(plan: Plan, tmp_path: Path) -> None:
    def outcomes(spec: RunSpec) -> dict[str, Outcomes]:
        short = spec.seed == 1 and spec.method.name == "lora"
        return {c: "10" if short and c == "boolq" else "1010" for c in spec.benchmark.columns}

    table = build(plan, outcomes)
    text = everything_is_written(table, tmp_path)
    found = texts(table, "LoRA")
    assert found[2] == "-" and set(found[3:10]) == {"50.0"} and "(of 7)" in found[10]
    assert (
        "LoRA (r=16), BoolQ: no value, since its seeds were tested on different numbers of items (2, 4)"
        in text
    )
    assert texts(table, "Dual LoRA")[2] == "50.0"


def test_rows_with_unequal_items_are_not_paired(plan: Plan) -> None:
    """One item would otherwise be compared with each of four."""
    rows = {row.id: row for row in plan.rows}
    items = {"lora": "1", "dual_lora": "1010"}
    results = {
        spec.hash: state(spec, {c: items[name] for c in spec.benchmark.columns}).result
        for name in items
        for spec in rows[name].specs
    }
    one, other = (runs_by_column(rows[name], results) for name in items)
    assert paired_difference(one, other, list(rows["lora"].columns)) is None
    assert paired_difference(one, one, list(rows["lora"].columns)) is not None


def test_texts_that_were_cut_are_a_note_with_the_most_of_any_run(plan: Plan) -> None:
    few, many = {"all": 0.25, "piqa": 0.5}, {"all": 0.3125, "hellaswag": 0.75, "piqa": 0.5}
    cut = iter([None, {"all": 0.0}, few, many, few])
    table = build_table(plan, [state(spec, {}, next(cut, few)) for spec in plan.runs.values()])
    shares = "all 31.2 %, HellaS. 75.0 %, PIQA 50.0 %"
    said = [note for note in table.notes if "cut" in note]
    assert said == [f"tiny-llama: training texts above max_tokens, which were cut: {shares}."]
    whole = build_table(plan, [state(spec, {}, {"all": 0.0}) for spec in plan.runs.values()])
    assert not any("cut" in note for note in whole.notes)


def scored(plan: Plan, way: Callable[[RunSpec], str]) -> list[str]:
    """The notes on how rows were scored, of finished runs scored `merged`, `unmerged` or `sharded`."""
    results: dict[str, Result | None] = {}
    for spec in plan.runs.values():
        result = state(spec, {}).result
        assert result is not None
        merged = result.evaluation.model_copy(update={"merged": way(spec) == "merged"})
        strategy = "fsdp" if way(spec) == "sharded" else None
        environment = result.environment.model_copy(update={"strategy": strategy})
        results[spec.hash] = result.model_copy(update={"evaluation": merged, "environment": environment})
    return list(scoring_notes(plan.rows, results))


def test_a_table_says_how_its_rows_were_scored(plan: Plan) -> None:
    """In a line, which names the rows that differ. FFT and Base have nothing to merge."""
    assert scored(plan, lambda spec: "merged" if spec.method.mergeable else "unmerged") == [
        "Scored merged into fp32; unmerged: Adapter-P."
    ]
    assert scored(plan, lambda spec: "unmerged") == ["Scored unmerged."]
    assert list(scoring_notes(plan.rows, dict.fromkeys(plan.runs))) == []
    # Two seeds of one row that were scored in two ways.
    found = scored(plan, lambda spec: "merged" if spec.method.name == "lora" and spec.seed else "unmerged")
    assert found == ["Scored unmerged; merged into fp32: LoRA."]


def test_blocks_that_were_scored_alike_share_a_line() -> None:
    def way(spec: RunSpec) -> str:
        if spec.model.name == "llama3-70b":
            return "sharded"
        return "merged" if spec.method.mergeable else "unmerged"

    assert scored(expand(load_experiment("table1"), load_profile("paper"), [0]), way) == [
        "llama-7b: scored merged into bf16; unmerged: Adapter-P.",
        "llama-13b, llama2-7b, llama3-8b: scored merged into bf16.",
        "llama3-70b: scored unmerged on a sharded model.",
    ]


def test_a_method_with_many_rows_is_named_once_where_all_of_them_differ() -> None:
    sweep = expand(load_experiment("sweeps/learning_rate"), load_profile("laptop"))
    found = scored(sweep, lambda spec: "merged" if spec.method.mergeable else "unmerged")
    assert found == ["Scored merged into fp32; unmerged: Adapter-P."]
    rate = next(spec.training.learning_rate for spec in sweep.runs.values() if spec.method.name == "hira")
    (found_now,) = scored(
        sweep,
        lambda spec: (
            "unmerged" if spec.method.name == "hira" and spec.training.learning_rate == rate else "merged"
        ),
    )
    assert found_now == f"Scored merged into fp32; unmerged: HiRA, learning_rate {rate:g}."


def test_a_table_names_the_rows_that_its_profile_runs() -> None:
    plan = expand(load_experiment("fig2"), load_profile("overnight"))
    table = build_table(plan, [RunState(spec, State.MISSING) for spec in plan.runs.values()])
    (note,) = (note for note in table.notes if "leaves out the others" in note)
    assert "dual_lora-12" in note and "dual_lora_constant_scale" not in note
