"""A plan as text: every run with its settings, size and state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import fill

from repro.plans.execution import Execution
from repro.plans.plan import Plan, PlannedRow
from repro.plans.spec import RunSpec
from repro.report.durations import duration
from repro.runs.states import RunState, State, expected_seconds
from repro.text import one_line

# Line width in characters.
_WIDTH = 120


def describe_plan(
    plan: Plan,
    states: Sequence[RunState],
    execution: Callable[[RunSpec], Execution] | None = None,
    committed: Sequence[RunState] = (),
) -> str:
    """Every row with its runs, by block; then batches, runs outside of rows, notes and a summary.

    Args:
        execution: of each run; None takes the plan's.
        committed: states of the same runs among the reference results, for the time that they take.
    """
    by_hash = {state.spec.hash: state for state in states}
    first = plan.rows[0].specs[0]
    lines = [
        f"{plan.experiment.name}: {plan.experiment.title}",
        f"profile {plan.profile.name}: {plan.profile.purpose}",
    ]
    lines += ["", f"data and protocol: {first.benchmark.note}", "runs: the state, then seed:hash of each"]
    block = None
    for row in plan.rows:
        if row.block != block:
            block = row.block
            model = row.specs[0].model
            lines += ["", f"{block} ({model.source}: {model.checkpoint or 'random weights'})"]
        lines += _row(row, by_hash)
    specs = [spec for row in plan.rows for spec in row.specs]
    batches = describe_batches(execution or plan.execution, specs)
    lines += ["", *batches] if batches else []
    shown = {spec.hash for row in plan.rows for spec in row.specs}
    others = [spec for spec in plan.runs.values() if spec.hash not in shown]
    if others:
        lines += ["", "runs that are in no row, but from which others start"]
        lines += [f"  {by_hash[spec.hash].state:<8}{spec.hash}  {spec.title}" for spec in others]
    notes = plan.footnotes()
    lines += ["", *(f"note: {note}" for note in notes)] if notes else []
    return "\n".join(map(_wrapped, [*lines, "", summarise(states, committed), f"cells: {len(plan.cells)}"]))


def describe_batches(execution: Callable[[RunSpec], Execution], specs: Iterable[RunSpec]) -> list[str]:
    """How optimiser batches are split on this machine, one line for each split, with its models."""
    models: dict[str, list[str]] = {}
    for spec in specs:
        if spec.trains:
            batch = execution(spec).batch(spec.training.batch_size)
            models.setdefault(batch, []).append(spec.model.name)
    if len(models) == 1:
        return list(models)
    return [f"{batch} ({', '.join(dict.fromkeys(names))})" for batch, names in models.items()]


def summarise(states: Sequence[RunState], committed: Sequence[RunState] = ()) -> str:
    """The number of runs in each state, and the estimated time for the open ones.

    Args:
        committed: see `describe_plan`.
    """
    counts = Counter(state.state for state in states)
    text = f"runs: {len(states)} in all" + "".join(
        f", {counts[state]} {state}" for state in State if counts[state]
    )
    if counts[State.DONE] == len(states):
        return text
    seconds = expected_seconds(states)
    if seconds is None:
        seconds = expected_seconds(states, committed)
        if seconds is None:
            return f"{text}; no time estimate, since no run is measured yet"
        machines = sorted({one.result.environment.hardware for one in committed if one.result is not None})
        return (
            f"{text}; on {' or '.join(machines)} the open runs took {duration(seconds)}, one after the other"
        )
    return f"{text}; open runs should take {duration(seconds)} on this machine"


def _row(row: PlannedRow, by_hash: Mapping[str, RunState]) -> Iterator[str]:
    """The row's size, then its runs by task, below their method's settings."""
    size = f"{row.trainable_parameters:,} trained ({row.trainable_percent:.4g} %)"
    yield f"  {row.label}: {size}" + ("; not in the paper's table" if row.extra else "")
    above = ""
    for task, group in groupby(row.specs, key=lambda spec: spec.task):
        specs = list(group)
        settings = specs[0].method.model_dump(exclude={"name"}, exclude_none=True)
        method = " ".join(f"{key}={_shown(value)}" for key, value in settings.items())
        if method != above:
            yield f"    {method}"
            above = method
        runs = [
            f"{state} {' '.join(by_state)}"
            for state in State
            if (
                by_state := [
                    f"{spec.seed}:{spec.hash}" for spec in specs if by_hash[spec.hash].state is state
                ]
            )
        ]
        name = f"{task:<6}" if task else ""
        yield f"    {name}{_learning(specs[0])}  {', '.join(runs)}"
        parents = [spec.parent for spec in specs if spec.parent is not None]
        if parents:
            start = specs[0].init_from
            way = "evaluated" if specs[0].evaluates or start is None else start.reading
            hashes = " ".join(parent.hash for parent in parents)
            what = " ".join(filter(None, [parents[0].method.name, parents[0].task]))
            yield f"          from {what}, {way}: {hashes}"


def _learning(spec: RunSpec) -> str:
    if not spec.trains:
        return "no training"
    training = spec.training
    warmup = training.warmup_steps if training.warmup_ratio is None else f"{training.warmup_ratio:.0%}"
    return (
        f"lr={training.learning_rate:g} batch={training.batch_size} epochs={training.epochs} "
        f"warmup={warmup} wd={training.weight_decay:g}"
    )


def _wrapped(line: str) -> str:
    """The line wrapped to `_WIDTH`, with continuation lines indented."""
    line = one_line(line)
    if len(line) <= _WIDTH:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return fill(line, _WIDTH, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
