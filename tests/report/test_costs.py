"""The cost section of a plan, with the committed results and without results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from repro.analysis.estimates import Estimates, estimate
from repro.paths import REFERENCE
from repro.plans.cost import BANDWIDTH, EFFICIENCY, OPERATION_SECONDS
from repro.plans.experiment import list_experiments, load_experiment
from repro.plans.gpu import list_gpus, load_gpu
from repro.plans.plan import Plan, expand
from repro.plans.profile import list_profiles, load_profile
from repro.report.costs import describe_costs
from repro.report.plans import describe_plan
from repro.report.tables import build_table
from repro.runs.states import run_states
from repro.runs.store import Store

H100 = load_gpu("h100")


def planned(name: str, profile: str) -> Plan:
    return expand(load_experiment(name), load_profile(profile))


def estimates(planned: Plan, folder: Path) -> Estimates:
    return estimate(run_states(planned, Store(folder)), planned.execution, H100)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The committed results of LoRA and DoRA, made on two machines, as a store."""
    for path in REFERENCE.glob("runs/commonsense--*/result.json"):
        run = path.parent.name
        if "1 threads of " in path.read_text(encoding="utf-8") and "--dual_lora--" not in run:
            (tmp_path / run).mkdir()
            shutil.copy(path, tmp_path / run)
    return tmp_path


def row(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.split()[:1] == [name]).split()[1:]


@pytest.mark.parametrize("profile", ["paper", "laptop"])
@pytest.mark.parametrize("name", ["table1", "table2", "table4", "fig2"])
def test_a_table_adds_up_and_fits_a_line(name: str, profile: str, tmp_path: Path) -> None:
    table = planned(name, profile)
    found = estimates(table, tmp_path)
    text = describe_costs(table, found, H100)
    assert max(map(len, text.splitlines())) <= 120
    blocks = [row(text, block) for block in dict.fromkeys(r.block for r in table.rows)]
    everything = row(text, "all")
    assert sum(int(block[0]) for block in blocks) == int(everything[0]) == len(table.runs)
    for column in (1, 9, 11):
        total = sum(float(block[column].replace(",", "")) for block in blocks)
        assert total == pytest.approx(float(everything[column].replace(",", "")), rel=0.05)
    assert "ASSUMED" in text


def test_a_pass_waits_for_its_operations_or_for_their_launch(tmp_path: Path) -> None:
    table = planned("table1", "paper")
    found = estimates(table, tmp_path)
    costs = {(r.block, r.id): found.costs[r.specs[0].hash] for r in table.rows}
    dora, hira = costs["llama2-7b", "dora-r32"], costs["llama2-7b", "hira-r32"]
    assert hira.passes == 3 * 5_322  # 170,420 records without 120, in batches of 32 that fit an H100
    assert dora.passes == 3 * 10_644  # in halves of them
    assert dora.assumed_seconds(H100) == pytest.approx(dora.passes * dora.operations * OPERATION_SECONDS)
    assert hira.assumed_seconds(H100) == pytest.approx(
        hira.flops / (EFFICIENCY["bf16"] * 989e12) + hira.moved / (BANDWIDTH * 3.35e12)
    )


def test_finished_runs_give_tokens_and_a_rate(finished: Path) -> None:
    table = planned("fig2", "laptop")
    found = estimates(table, finished)
    measured = [state.result for state in found.states if state.result and state.spec.method.trains]
    assert len(measured) == 4  # LoRA and DoRA at two ranks, one of each on each machine
    # HiRA trains on the same texts as the others, and is not finished: its tokens are theirs, not the mean.
    hira, lora = (next(s.spec for s in found.states if s.spec.method.name == n) for n in ("hira", "lora"))
    expected = hira.training_size.tokens
    assert measured[0].training.tokens == pytest.approx(expected, rel=0.05)
    unmeasured = estimates(table, finished / "none").costs
    assert found.costs[lora.hash].flops != unmeasured[lora.hash].flops
    ratio = {h: found.costs[h].flops / unmeasured[h].flops for h in (hira.hash, lora.hash)}
    assert ratio[hira.hash] == pytest.approx(ratio[lora.hash], rel=0.01)

    rates = found.rates()
    assert len(rates) == 2
    for hardware, rate in rates.items():
        own = [s for s in found.states if s.result in measured and s.result.environment.hardware == hardware]
        assert len(own) == rate.runs == 2
        assert rate.seconds == pytest.approx(sum(state.result.training.seconds for state in own))
        # The formula ranks methods as the clock does: operations a second are alike over all of them.
        each = [found.rate([state]).per_second for state in own]
        assert max(each) < 1.7 * min(each)
    text = describe_costs(table, found, H100)
    assert text.count("check: 2 runs took ") == 2
    assert row(text, "hira-r16")[-1] == "-" != row(text, "lora-r8")[-1]


def test_runs_on_the_gpu_replace_the_assumption(finished: Path) -> None:
    for path in finished.glob("*/result.json"):
        content = json.loads(path.read_text())
        content["environment"]["hardware"] = "1 x NVIDIA H100 80GB HBM3"
        path.write_text(json.dumps(content))
    table = planned("fig2", "laptop")
    found = estimates(table, finished)
    rate = next(iter(found.rates().values()))
    missing = [state for state in found.states if state.result is None]
    expected = sum(found.costs[state.spec.hash].flops for state in missing) / rate.per_second
    assert found.seconds(missing, H100) == pytest.approx(expected)
    assert "MEASURED" in describe_costs(table, found, H100)
    assert "ASSUMED" in describe_costs(table, found, load_gpu("a100"))


@pytest.mark.parametrize("name", list_gpus())
def test_a_described_gpu_can_be_planned_for(name: str, tmp_path: Path) -> None:
    gpu = load_gpu(name)
    assert gpu.name == name
    assert gpu.peak_tflops.keys() == {"bf16", "fp32"}


@pytest.mark.parametrize("profile", list_profiles())
def test_every_experiment_is_planned_and_rendered(profile: str, tmp_path: Path) -> None:
    """Every row of every table under every profile, before anything has run."""
    for name in list_experiments():
        table = expand(load_experiment(name), load_profile(profile))
        states = run_states(table, Store(tmp_path))
        estimates = estimate(states, table.execution, load_gpu("h100"))
        assert describe_plan(table, states, lambda spec, e=estimates: e.executions[spec.hash])
        assert describe_costs(table, estimates, load_gpu("h100"))
        assert len(build_table(table, states).groups) >= 1
