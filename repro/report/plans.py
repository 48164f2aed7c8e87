"""A plan in words: every run with its settings, its size and its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from repro.report.durations import duration
from repro.study.experiment import Plan, PlannedRow
from repro.study.spec import RunSpec
from repro.study.states import RunState, State, expected_seconds


def describe_plan(plan: Plan, states: Sequence[RunState]) -> str:
    """One line a run under its block's heading, then what is left to do."""
    by_hash = {state.spec.hash: state for state in states}
    first = plan.rows[0].specs[0]
    lines = [
        f"{plan.experiment.name}: {plan.experiment.title}",
        f"profile {plan.profile.name}: {plan.profile.purpose}",
    ]
    lines += ["", f"data and protocol: {first.benchmark.note}"]
    block = None
    width = max(len(row.label) for row in plan.rows)
    for row in plan.rows:
        if row.block != block:
            block = row.block
            model = row.specs[0].model
            lines += ["", f"{block} ({model.source}: {model.checkpoint or 'random weights'})"]
        lines += [_line(row, spec, by_hash[spec.hash], width) for spec in row.specs]
    shown = {spec.hash for row in plan.rows for spec in row.specs}
    others = [spec for spec in plan.runs.values() if spec.hash not in shown]
    if others:
        lines += ["", "in no row, but others start from them"]
        lines += [f"  {by_hash[spec.hash].state:<8}{spec.hash}  {spec.title}" for spec in others]
    notes = plan.footnotes()
    lines += ["", *(f"note: {note}" for note in notes)] if notes else []
    return "\n".join([*lines, "", summarise(states), f"cells: {len(plan.cells)}"])


def summarise(states: Sequence[RunState]) -> str:
    """How many runs there are of each state, and what the open ones should take."""
    counts = Counter(state.state for state in states)
    text = f"runs: {len(states)} in all" + "".join(
        f", {counts[state]} {state}" for state in State if counts[state]
    )
    if counts[State.DONE] == len(states):
        return text
    seconds = expected_seconds(states)
    if seconds is None:
        return f"{text}; no run is measured yet, so there is no estimate of the time"
    return f"{text}; what is open should take {duration(seconds)} here"


def _line(row: PlannedRow, spec: RunSpec, state: RunState, width: int) -> str:
    settings = spec.method.model_dump(exclude={"name"}, exclude_none=True)
    shown = " ".join(f"{key}={_shown(value)}" for key, value in settings.items())
    training = spec.training
    warmup = training.warmup_steps if training.warmup_ratio is None else f"{training.warmup_ratio:.0%}"
    learning = (
        f"lr={training.learning_rate:g} batch={training.batch_size} epochs={training.epochs} "
        f"warmup={warmup} wd={training.weight_decay:g}"
        if spec.method.trains
        else "no training"
    )
    size = f"{row.trainable_parameters:,} trained ({row.trainable_percent:.4g} %)"
    start = ""
    if spec.init_from is not None:
        start = (
            f"  starts from {spec.init_from.run.hash} ({spec.init_from.run.title}, {spec.init_from.reading})"
        )
    run = f"  {state.state:<8}{spec.hash}  {row.label:<{width}}  {spec.task:<6} seed {spec.seed}"
    return f"{run}  {size:<34}{learning}  {shown}".rstrip() + start


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
