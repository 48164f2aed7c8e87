"""The columns of costs, and the penalised score against the table that its paper prints."""

from __future__ import annotations

from typing import Any

import pytest

from repro.analysis.pscp import added_teraflops, pscp
from repro.benchmarks.base import TaskScore
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.report.cost_columns import with_costs
from repro.report.formats import FORMATS, cell_texts
from repro.report.tables import Table, build_table
from repro.runs.result import Environment, Evaluation, Result, Training
from repro.runs.states import RunState, State


@pytest.mark.parametrize(
    ("score", "parameters", "teraflops", "gigabytes", "printed"),
    [
        (74.7, 196_608, 8.69 - 8.38, 28.41, 55.62),  # IA3
        (51.7, 53_130_752, 10.06 - 8.38, 34.53, 29.26),  # P-Tuning
        (80.1, 14_680_064, 0.0, 27.75, 60.08),  # LoRA
        (77.8, 266_240, 0.0, 27.43, 60.19),  # LNTuning
    ],
)
def test_table_3_of_peft_bench(
    score: float, parameters: int, teraflops: float, gigabytes: float, printed: float
) -> None:
    assert round(pscp(score, parameters, teraflops, gigabytes), 2) == printed


def test_the_tokens_give_the_papers_flops_of_llama3_8b() -> None:
    """8.38 TFLOPs, of which attention over 512 tokens has about a hundredth."""
    assert added_teraflops(8_030_261_248, mergeable=False) == pytest.approx(8.38, rel=0.03)
    assert added_teraflops(10**9, mergeable=True) == 0


@pytest.fixture(scope="module")
def plan() -> Plan:
    return expand(load_experiment("table1"), load_profile("smoke"), [0, 1])


def state(spec: RunSpec, **changes: Any) -> RunState:
    score = TaskScore(metric="accuracy", value=50.0, items=4, outcomes="1100", unparsed=0.0, constant=False)
    evaluation = Evaluation(
        seconds=12.0, probing_seconds=4.0, items=32, merged=True, scorer_version=1, predictions="p"
    )
    fields: dict[str, Any] = {
        "seconds": 100.0 + 20 * spec.seed,
        "peak": (1 + spec.seed) * 2**30,
        "hardware": "cpu",
    } | changes
    result = Result.model_construct(
        hash=spec.hash,
        slug=spec.slug,
        scores={column: score for column in spec.benchmark.columns},
        training=Training(steps=1, tokens=1, seconds=fields["seconds"], losses=(1.0,), validation_losses=()),
        evaluation=evaluation.model_copy(update=changes.get("evaluation", {})),
        environment=Environment(
            commit=None, dirty=None, python="3", platform="l", threads=1, packages={},
            hardware=fields["hardware"],
        ),
        adapter_bytes=13_300_000,
        peak_memory_bytes=fields["peak"],
        data_fingerprints={"test": "same"},
        warnings=(),
    )  # fmt: skip
    return RunState(spec, State.DONE, result)


def cells(table: Table, label: str) -> dict[str, str]:
    rows = [row for group in table.groups if group.source == "measured" for row in group.rows]
    row = next(row for row in rows if row.label.startswith(label))
    return dict(zip(["label", "params", *table.columns, "runs"], cell_texts(table, row), strict=True))


def test_costs_are_means_over_seeds_and_memory_is_the_largest(plan: Plan) -> None:
    states = [state(spec) for spec in plan.runs.values()]
    table = with_costs(build_table(plan, states), plan, states)
    found = cells(table, "LoRA (")
    assert [found[name] for name in ("train_s", "peak_gib", "adapter_mb", "test_ms")] == [
        "110", "2.00", "13.3", "250.0",
    ]  # fmt: skip
    lora = next(row for row in plan.rows if row.id == "lora")
    gigabytes = 1.5 * 2**30 / 1e9
    assert found["pscp"] == f"{pscp(50.0, lora.trainable_parameters, 0.0, gigabytes):.1f}"
    base = cells(table, "Base")
    assert [base[name] for name in ("train_s", "adapter_mb", "pscp", "test_ms")] == ["-", "-", "-", "250.0"]
    for render in FORMATS.values():
        assert "PSCP" in render(table) or "pscp" in render(table)
    assert all(
        cell_texts(table, row)[-6:-1] == [""] * 5
        for group in table.groups
        if group.source == "paper"
        for row in group.rows
    )


def test_other_hardware_is_marked_and_what_is_not_known_is_missing(plan: Plan) -> None:
    def of(spec: RunSpec) -> RunState:
        if spec.method.name == "dora":
            return state(spec, hardware="another cpu", peak=None, evaluation={"probing_seconds": None})
        return state(spec)

    states = [of(spec) for spec in plan.runs.values()]
    table = with_costs(build_table(plan, states), plan, states)
    marked = [row.label for group in table.groups for row in group.rows if "‡" in row.label]
    assert len(marked) == 1 and marked[0].startswith("DoRA")
    found = cells(table, "DoRA")
    assert [found[name] for name in ("train_s", "peak_gib", "test_ms", "pscp")] == ["110", "-", "-", "-"]
    assert "another cpu" in table.notes[-1]


def test_a_row_without_a_run_costs_nothing_known(plan: Plan) -> None:
    states = [RunState(spec, State.MISSING) for spec in plan.runs.values()]
    found = cells(with_costs(build_table(plan, states), plan, states), "LoRA (")
    assert [found[name] for name in ("train_s", "peak_gib", "adapter_mb", "test_ms", "pscp")] == ["-"] * 5


def test_tasks_that_are_trained_separately_are_added_up() -> None:
    plan = expand(load_experiment("table2"), load_profile("smoke"), [0])
    tasks = len(next(row for row in plan.rows if row.label.startswith("LoRA (")).specs)
    assert tasks > 1
    states = [state(spec) for spec in plan.runs.values()]
    table = with_costs(build_table(plan, states), plan, states)
    assert cells(table, "LoRA (")["train_s"] == str(100 * tasks)
