"""Columns of a table that say what each row's runs cost, beside their scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from repro.analysis import pscp
from repro.analysis.paper import AVERAGE
from repro.analysis.statistics import Estimate
from repro.plans.plan import Plan, PlannedRow
from repro.report.tables import Table, TableGroup, TableRow
from repro.runs.result import Result
from repro.runs.states import RunState
from repro.text import one_line

OTHER_HARDWARE = " ‡"
"""Follows the label of a row of which a run was executed on other hardware than most runs."""

_COLUMNS = {
    "train_s": "train (s)",
    "peak_gib": "peak (GiB)",
    "adapter_mb": "adapter (MB)",
    "test_ms": "test (ms/item)",
    "pscp": "PSCP",
}
_DECIMALS = {"train_s": 0, "peak_gib": 2, "adapter_mb": 1, "test_ms": 1, "pscp": 1}


def with_costs(table: Table, plan: Plan, states: Sequence[RunState]) -> Table:
    """The table with columns of costs, as means over a row's runs; a cost that was not recorded is missing.

    - `train_s`: seconds of training with its validations, of all tasks where they are trained separately.
    - `peak_gib`: largest memory of a run in GiB, of the process on a CPU and of the device on a GPU.
    - `adapter_mb`: what is saved, in 10^6 bytes.
    - `test_ms`: milliseconds a test item, without the probes; a merged adapter adds nothing.
    - `pscp`: see `repro.analysis.pscp`; of tables with an average.
    """
    results = {state.spec.hash: state.result for state in states}
    planned = {(row.block, row.id): row for row in plan.rows}
    columns = {name: text for name, text in _COLUMNS.items() if name != "pscp" or AVERAGE in table.columns}
    machines = Counter(_machine(result) for result in results.values() if result is not None)
    usual = machines.most_common(1)[0][0] if machines else ""

    def priced(group: TableGroup, row: TableRow) -> TableRow:
        own = planned[group.block, row.id]
        done = [result for spec in own.specs if (result := results[spec.hash]) is not None]
        found = _costs(own, results, row.values.get(AVERAGE))
        values = {name: None if (cost := found.get(name)) is None else Estimate(cost, None, len(done))
                  for name in columns}  # fmt: skip
        elsewhere = any(_machine(result) != usual for result in done)
        return replace(
            row, label=row.label + (OTHER_HARDWARE if elsewhere else ""), values=row.values | values
        )

    groups = tuple(
        replace(group, rows=tuple(priced(group, row) for row in group.rows))
        if group.source == "measured"
        else group
        for group in table.groups
    )
    return replace(
        table,
        columns=table.columns | columns,
        decimals=table.decimals | _DECIMALS,
        groups=groups,
        notes=(*table.notes, *_notes(columns, machines)),
    )


def _machine(result: Result) -> str:
    environment = result.environment
    devices = f", {environment.devices} devices" if environment.devices > 1 else ""
    return one_line(f"{environment.hardware}, {environment.threads} threads{devices}")


def _costs(
    row: PlannedRow, results: Mapping[str, Result | None], average: Estimate | None
) -> dict[str, float | None]:
    """The costs by column, without those that are not known."""
    by_seed: dict[int, list[Result | None]] = {}
    for spec in row.specs:
        by_seed.setdefault(spec.seed, []).append(results[spec.hash])
    done = [result for runs in by_seed.values() for result in runs if result is not None]
    if not done:
        return {}
    # Seeds whose tasks are all trained.
    whole = [[run for run in runs if run is not None] for runs in by_seed.values() if None not in runs]
    peaks = [run.peak_memory_bytes for run in done]
    tests = [
        None if (probing := run.evaluation.probing_seconds) is None
        else 1000 * (run.evaluation.seconds - probing) / run.evaluation.items
        for run in done
    ]  # fmt: skip
    costs: dict[str, float | None] = {
        "peak_gib": None if None in peaks else max(peak or 0 for peak in peaks) / 2**30,
        "test_ms": None if None in tests else fmean(test or 0.0 for test in tests),
    }
    method = row.specs[0].method
    if not method.trains:
        return costs
    costs["train_s"] = fmean(sum(run.training.seconds for run in runs) for runs in whole) if whole else None
    costs["adapter_mb"] = fmean(run.adapter_bytes for run in done) / 1e6
    if average is not None and None not in peaks:
        parameters = row.trainable_parameters
        mergeable = method.mergeable or row.specs[0].trains_base
        costs["pscp"] = pscp.pscp(
            average.mean,
            parameters,
            pscp.added_teraflops(parameters, mergeable),
            fmean(peak or 0 for peak in peaks) / 1e9,
        )
    return costs


def _notes(columns: Mapping[str, str], machines: Mapping[str, int]) -> list[str]:
    notes = [
        "Costs are means over a row's runs, and peak memory the largest: of the process on a CPU, of the "
        "device on a GPU. Times are those of the machine, which other work may have slowed. A merged adapter "
        "adds nothing to the base model's test."
    ]
    if "pscp" in columns:
        notes.append(
            "PSCP (PEFT-Bench, arXiv 2511.21285, Eq. 3, weights of 1): the average divided by (1 + trained "
            f"parameters / {pscp.PARAMETERS:g}), (1 + TFLOPs added to a forward pass of {pscp.TOKENS} tokens "
            f"/ {pscp.TERAFLOPS:g}) and (1 + peak memory in GB / {pscp.GIGABYTES:g})."
        )
    if len(machines) > 1:
        usual, *others = sorted(machines, key=lambda name: -machines[name])
        notes.append(
            f"{OTHER_HARDWARE.strip()} some runs on other hardware than most ({usual}), so that times and "
            f"memory cannot be compared: {'; '.join(others)}."
        )
    return notes
