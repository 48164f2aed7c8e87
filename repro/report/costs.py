"""Estimated cost of an experiment as text: FLOPs, memory and GPU-hours by row, by block and in total."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from repro.analysis.estimates import Estimates
from repro.plans.cost import BANDWIDTH, EFFICIENCY, OPERATION_SECONDS
from repro.plans.gpu import Gpu
from repro.plans.plan import Plan
from repro.report.durations import duration
from repro.runs.states import RunState, State
from repro.text import one_line

_GIB = 2**30
_FP32 = 4  # bytes

# Headings and widths; with a label of 29 characters a line has 120.
_COLUMNS = {
    "runs": 5,
    "PFLOP": 8,
    "weights": 8,
    "trained": 8,
    "activ.": 7,
    "adapters": 9,
    "GiB": 6,
    "test": 6,
    "GPUs": 5,
    "GPU-h": 8,
    "busy": 6,
    "test-h": 7,
    "GFLOP/s": 8,
}
_FORMULA = """\
FLOPs of a pass over T tokens in texts of L, of which P are predicted: c T w for linear layers with w weights
(c = 4 frozen, 6 trained); c P w for the head; 12 T L h for attention of width h; and the adapters' part, see
repro/methods. Memory, for texts of max_tokens: weights; adapters, gradients and optimiser state; input and
output of every linear layer (with gradient checkpointing, of every block); tensors that adapters build. The
test pass: weights, the activations of a batch, logits, keys and values of all beams. Text lengths are means
of the public data sets, or counts of finished runs. Padding, optimiser steps, validation and probes are NOT
included. Details: repro/plans/cost.py and repro/plans/evaluation_cost.py."""


def describe_costs(plan: Plan, estimates: Estimates, gpu: Gpu) -> str:
    """A table with one line per block, followed by one line per row, and how costs are computed."""
    by_hash = {state.spec.hash: state for state in estimates.states}
    rows = [(row.block, row.id, [by_hash[spec.hash] for spec in row.specs]) for row in plan.rows]
    shown = {spec.hash for row in plan.rows for spec in row.specs}
    others = [state for state in estimates.states if state.spec.hash not in shown]
    unfinished = [state for state in estimates.states if state.state is not State.DONE]

    lines: list[tuple[str, Sequence[RunState]]] = []
    for block in dict.fromkeys(row.block for row in plan.rows):
        inside = [(f"  {name}", states) for place, name, states in rows if place == block]
        # By hash, since two rows may share a run.
        lines.append((block, list({s.spec.hash: s for _, states in inside for s in states}.values())))
        lines += inside
    if others:
        lines.append(("in no row", others))
    lines.append(("all", estimates.states))
    if 0 < len(unfinished) < len(estimates.states):
        lines.append(("not done", unfinished))

    width = max(len(label) for label, _ in lines)
    table = [_line("", _COLUMNS, width)]
    table += [_line(label, _cells(states, estimates, gpu), width) for label, states in lines]
    title = (
        f"estimated cost of training and test on {gpu.title}; memory in GiB of one GPU, of the largest run"
    )
    return "\n".join([title, "", *table, "", _FORMULA, *_basis(estimates, gpu, unfinished)])


def _line(label: str, cells: Iterable[str], width: int) -> str:
    placed = (f"{cell:>{size}}" for cell, size in zip(cells, _COLUMNS.values(), strict=True))
    return one_line(f"{label:<{width}}" + "".join(placed))


def _cells(states: Sequence[RunState], estimates: Estimates, gpu: Gpu) -> list[str]:
    costs = [estimates.costs[state.spec.hash] for state in states]
    tests = [estimates.tests[state.spec.hash] for state in states]
    largest, tested = max(costs, key=lambda cost: cost.memory), max(test.memory for test in tests)
    parts = (largest.weights, largest.trained, largest.activations, largest.adapters, largest.memory)
    rate, seconds = estimates.rate(states), estimates.seconds(states, gpu)
    computing = sum(cost.computing_seconds(gpu) for cost in costs)
    return [
        str(len(costs)),
        _number(sum(cost.flops for cost in costs) / 1e15),
        *(f"{part / _GIB:.1f}" for part in (*parts, tested)),
        str(largest.devices * math.ceil(max(largest.memory, tested) / gpu.memory_bytes)),
        _number(seconds / 3600),
        f"{computing / seconds:.0%}" if seconds else "-",
        _number(sum(test.assumed_seconds(gpu) for test in tests) / 3600),
        _number(rate.per_second / 1e9) if rate else "-",
    ]


def _number(value: float) -> str:
    if 0 < value < 1e-3:
        return f"{value:.0e}"  # 0.00012 would touch the column to its left
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"


def _basis(estimates: Estimates, gpu: Gpu, unfinished: Sequence[RunState]) -> Iterator[str]:
    """How GPU-hours are computed, and the throughput of finished runs."""
    assumed = " and ".join(
        f"{EFFICIENCY[precision]:.0%} of {gpu.peak_tflops[precision]:g} TFLOP/s in {precision}"
        for precision in sorted({cost.precision for cost in estimates.costs.values()})
    )
    measured = estimates.rate(estimates.states, gpu.device)
    if measured:
        reached = f"{measured.per_second / 1e12:.3g} TFLOP/s"
        yield f"GPU-h: MEASURED, at {reached}, the rate of {measured.runs} runs finished on this GPU."
    else:
        moved = f"{BANDWIDTH:.0%} of {gpu.bandwidth_tbs:g} TB/s"
        yield f"GPU-h: ASSUMED, since no run is finished on this GPU: {assumed} and {moved}, and"
        yield f"at least {1e6 * OPERATION_SECONDS:.0f} us for each operation that the CPU launches."
    yield "test-h: ASSUMED in the same way; where texts are generated, as if none ended early."
    yield f"busy: the share of GPU-h spent on FLOPs, at {assumed}."
    kept = [state.spec for state in estimates.states if state.spec.trains and not state.spec.trains_base]
    size = sum(spec.trained_parameters for spec in kept) * _FP32
    yield f"disk: the adapters of {len(kept)} runs, kept in fp32, take {size / _GIB:.2g} GiB."
    flops = sum(estimates.costs[state.spec.hash].flops for state in unfinished)
    for hardware, rate in estimates.rates().items():
        where = one_line(hardware)
        yield f"check: {rate.runs} runs took {duration(rate.seconds)} of training on {where},"
        speed, rest = f"{_number(rate.per_second / 1e9)} GFLOP/s", duration(flops / rate.per_second)
        yield f"which is {speed} by the formula; at that rate the runs not done take {rest}."
