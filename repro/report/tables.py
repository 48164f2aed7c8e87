"""A table, ours above the paper's: what it holds. `repro.report.formats` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from repro.analysis.statistics import Estimate, mean_over_tasks, outcomes_array
from repro.methods.registry import METHODS
from repro.report.paper import PaperRow, paper_rows
from repro.study.experiment import Plan, PlannedRow
from repro.study.result import Result
from repro.study.states import RunState

AVERAGE = "avg"
"""The column behind the tasks: their unweighted mean, as in the paper."""

GAIN = "gain"
"""The column behind that: the average less the untrained model's, paired over the same items."""


@dataclass(frozen=True)
class TableRow:
    """One row of figures in percent; a hole is None, and a column that does not apply is absent.

    Attributes:
        runs: finished and expected runs, None for a row of the paper.
        collapsed: columns in which at least one run gave every item the same answer.
    """

    id: str
    label: str
    params: str
    values: dict[str, Estimate | None]
    runs: tuple[int, int] | None = None
    collapsed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TableGroup:
    """Rows under one heading; `source` is `measured` or `paper`, and a group is never of both."""

    heading: str
    source: str
    block: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    """Everything that a rendering shows. `columns` maps a column's id to its heading."""

    name: str
    title: str
    profile: str
    columns: dict[str, str]
    groups: tuple[TableGroup, ...]
    notes: tuple[str, ...]
    watermark: str | None = None
    warnings: tuple[str, ...] = field(default=())


def build_table(plan: Plan, states: Sequence[RunState]) -> Table:
    """Collect a plan's finished runs; what is missing, failed or unreadable is a hole."""
    experiment, profile = plan.experiment, plan.profile
    results = {state.spec.hash: state.result for state in states}
    tasks = plan.rows[0].specs[0].benchmark.tasks
    columns = plan.rows[0].specs[0].benchmark.titles | {AVERAGE: "Avg."}
    untrained = {row.block: results[row.specs[0].hash] for row in plan.rows if not row.specs[0].method.trains}
    if untrained:
        columns[GAIN] = "vs Base"
    blocks = list(dict.fromkeys(row.block for row in plan.rows))
    printed = paper_rows(experiment.name)
    groups: list[TableGroup] = []
    for block in blocks:
        rows = [row for row in plan.rows if row.block == block]
        measured = tuple(
            _measured(row, [results[spec.hash] for spec in row.specs], tasks, untrained.get(block))
            for row in rows
        )
        groups.append(TableGroup(f"Ours: {block}", "measured", block, measured))
        groups += _paper_groups([row for row in printed if row.block == block])
    groups += _paper_groups([row for row in printed if row.block not in blocks])
    done = [result for result in results.values() if result is not None]
    return Table(
        name=experiment.name,
        title=experiment.title,
        profile=profile.name,
        columns=columns,
        groups=tuple(groups),
        notes=tuple(_notes(plan, done, groups)),
        watermark=profile.watermark,
        warnings=tuple(f"{result.slug}: {warning}" for result in done for warning in result.warnings),
    )


def _measured(
    row: PlannedRow, results: Sequence[Result | None], tasks: Sequence[str], untrained: Result | None
) -> TableRow:
    done = [result for result in results if result is not None]
    trains = row.specs[0].method.trains
    values: dict[str, Estimate | None] = dict.fromkeys([*tasks, AVERAGE, *([GAIN] if trains else [])])
    if done:
        outcomes = {task: outcomes_array([result.scores[task].outcomes for result in done]) for task in tasks}
        values |= {task: mean_over_tasks([outcomes[task]]) for task in tasks}
        values[AVERAGE] = mean_over_tasks(list(outcomes.values()))
        if trains and untrained is not None and _same_items([*done, untrained]):
            before = {task: outcomes_array([untrained.scores[task].outcomes]) for task in tasks}
            values[GAIN] = mean_over_tasks([outcomes[task] - before[task] for task in tasks])
    return TableRow(
        id=row.id,
        label=row.label,
        params=f"{row.trainable_percent:.2f}" if row.trainable_parameters else "0",
        values=values,
        runs=(len(done), len(results)),
        collapsed=frozenset(task for task in tasks for result in done if result.scores[task].constant),
    )


def _same_items(results: Sequence[Result]) -> bool:
    return len({result.data_fingerprints["test"] for result in results}) == 1


def _paper_groups(printed: Sequence[PaperRow]) -> list[TableGroup]:
    return [
        TableGroup(
            f"Paper: {block}",
            "paper",
            block,
            tuple(_printed(row) for row in printed if row.block == block),
        )
        for block in dict.fromkeys(row.block for row in printed)
    ]


def _printed(row: PaperRow) -> TableRow:
    label = METHODS[row.method].label + (f" r={row.rank}" if row.rank else "")
    values = {
        column: None if value is None else Estimate(value, None, 1) for column, value in row.values.items()
    }
    return TableRow(id=f"{row.method}-r{row.rank}", label=label, params=row.params_percent, values=values)


def _notes(plan: Plan, done: Sequence[Result], groups: Sequence[TableGroup]) -> list[str]:
    """What a reader must know: models, data, protocol, seeds, and what the profile changed."""
    experiment, profile, first = plan.experiment, plan.profile, plan.rows[0].specs[0]
    seeds = sorted({spec.seed for spec in plan.runs.values()})
    notes = [
        f"Profile {profile.name}: {profile.purpose}.",
        f"Data and protocol: {first.benchmark.note}",
        f"Training: {_training(plan)}",
        f"Seeds: {', '.join(map(str, seeds))}. 'runs' counts finished of expected runs; ± is a 95 % interval "
        "over test items"
        + (" and seeds." if len(seeds) > 1 else "; one seed says nothing about the spread between seeds."),
        "Params (%): trained parameters of base and adapters together, heads not counted. 'vs Base' is the "
        "difference to the untrained model's average, paired item by item.",
    ]
    if profile.family(experiment.family).model is not None:
        blocks = ", ".join(block.model for block in experiment.blocks)
        notes.append(
            f"The profile puts {plan.rows[0].block} in the place of the paper's models ({blocks}), with the "
            "union of their methods; its numbers stand beside the paper's to compare orders, not levels."
        )
    notes += plan.footnotes()
    notes += experiment.paper_notes
    versions = sorted({str(result.evaluation.scorer_version) for result in done})
    if versions:
        commits = sorted({_commit(result) for result in done})
        machines = sorted({result.environment.hardware for result in done})
        notes.append(
            f"Measured with scorer version {', '.join(versions)}, code {', '.join(commits)}, "
            f"on {', '.join(machines)}."
        )
    if any(row.collapsed for group in groups for row in group.rows):
        notes.append("* in at least one run every item of this task got the same answer.")
    return notes


def _training(plan: Plan) -> str:
    training = plan.rows[0].specs[0].training
    return (
        f"{training.epochs} epoch(s) in batches of {training.batch_size}, {training.schedule} schedule with "
        f"{training.warmup_steps} warm-up steps, AdamW with weight decay {training.weight_decay:g}, loss on "
        f"{training.loss_on}, {training.precision}, {training.selection.replace('_', ' ')} weights."
    )


def _commit(result: Result) -> str:
    environment = result.environment
    if environment.commit is None:
        return "outside a checkout"
    return environment.commit[:10] + (" with uncommitted changes" if environment.dirty else "")
