"""The content of a table, our rows above the paper's; `repro.report.formats` renders it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from repro.analysis.finished import are_accuracies, items_of, runs_by_column, same_items
from repro.analysis.measures import has_measure, log_probabilities, measured
from repro.analysis.paper import AVERAGE, PaperRow, paper_rows
from repro.analysis.statistics import ACCURACIES, DIFFERENCES, Estimate, mean_over_tasks
from repro.plans.plan import Plan, PlannedRow
from repro.report.scored import scoring_notes
from repro.runs.result import Result
from repro.runs.states import RunState
from repro.training.truncation import ALL

GAIN = "gain"
"""The column after the average: the average minus the untrained model's, paired by item."""

PROBABILITY = "prob"
"""The column of the mean probability of the gold answers in percent; a mean over tasks like the average."""

UNPARSED = "unparsed"
"""The column of the share of answers that could not be read in percent, a mean over tasks and runs."""

LOG_PROBABILITY = "log_prob"
"""The mean log-probability in nats, which only the CSV has."""

EXTRA = " †"
"""Follows the label of a row that the paper's table does not have."""


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        values: values by column, in the column's unit; a missing value is None, and a column that does not
            apply is absent.
        runs: finished and expected runs; None for a row of the paper.
        collapsed: columns in which at least one run gave every item the same answer.
        averaged: the columns in the average; None if it is over all of the table's.
        unequal: columns without a value, since seeds were tested on different numbers of items, with these.
        printed: digits of every value of a row of the paper, by column.
        bold: columns that the paper prints in bold; empty for our rows.
    """

    id: str
    label: str
    params: str
    values: dict[str, Estimate | None]
    runs: tuple[int, int] | None = None
    collapsed: frozenset[str] = frozenset()
    averaged: tuple[str, ...] | None = None
    unequal: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    printed: Mapping[str, str] = field(default_factory=dict)
    bold: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TableGroup:
    """Rows under one heading. `source` is `measured` or `paper`; a group never mixes the two."""

    heading: str
    source: str
    block: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    """Everything that a rendering shows.

    Attributes:
        columns: headings by column id.
        params: heading of the column of trained parameters.
        decimals: decimals of the columns that have other than one.
    """

    name: str
    title: str
    profile: str
    columns: dict[str, str]
    params: str
    decimals: dict[str, int]
    groups: tuple[TableGroup, ...]
    notes: tuple[str, ...]
    watermark: str | None = None
    warnings: tuple[str, ...] = field(default=())


def build_table(plan: Plan, states: Sequence[RunState]) -> Table:
    """Build a plan's table from its finished runs. Values of other runs are missing (None)."""
    experiment, profile = plan.experiment, plan.profile
    results = {state.spec.hash: state.result for state in states}
    family = type(plan.rows[0].specs[0].benchmark)
    tasks = list(plan.columns)
    columns = plan.columns | ({AVERAGE: "Avg."} if family.averaged else {})
    untrained = {row.block: results[row.specs[0].hash] for row in plan.rows if not row.specs[0].method.trains}
    if untrained and family.averaged:
        columns[GAIN] = "vs Base"
    # Those of which some run has the numbers; runs of older scorers have none.
    sharp = [
        task
        for task in family.gold_columns()
        if any(
            r is not None and task in r.scores and r.scores[task].log_probabilities for r in results.values()
        )
    ]
    if sharp:
        columns[PROBABILITY] = "Prob."
    if family.averaged and any(
        score.unparsed for r in results.values() if r is not None for score in r.scores.values()
    ):
        columns[UNPARSED] = "Unread"
    blocks = list(dict.fromkeys(row.block for row in plan.rows))
    printed = paper_rows(experiment.name)
    groups: list[TableGroup] = []
    for block in blocks:
        rows = [row for row in plan.rows if row.block == block]
        measured = tuple(
            _measured(row, experiment.params, results, tasks, list(columns), untrained.get(block), sharp)
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
        params=_PARAMS[experiment.params],
        decimals=family.decimals,
        groups=tuple(groups),
        notes=tuple(_notes(plan, results, groups)),
        watermark=profile.watermark,
        warnings=tuple(f"{result.slug}: {warning}" for result in done for warning in result.warnings),
    )


_PARAMS_NOTE = {
    "percent": "trained parameters in percent of base and adapters together",
    "millions": "trained parameters in millions",
}
_PARAMS = {"percent": "Params (%)", "millions": "Params (M)"}


def _measured(
    row: PlannedRow,
    unit: str,
    results: Mapping[str, Result | None],
    tasks: Sequence[str],
    columns: Sequence[str],
    untrained: Result | None,
    sharp: Sequence[str],
) -> TableRow:
    """A row from its finished runs. A value is missing until one of its runs is done and has a score.

    Args:
        sharp: the tasks with a probability, where any run has one.
    """
    trains = row.specs[0].method.trains
    values: dict[str, Estimate | None] = {
        c: None for c in columns if c != PROBABILITY and (trains or c != GAIN)
    }
    by_seed = {task: runs for task, runs in runs_by_column(row, results).items() if runs}
    items = {task: tuple(sorted(items_of(list(runs.values()), task))) for task, runs in by_seed.items()}
    scored = [task for task in tasks if len(items.get(task, ())) == 1]
    bounded = {task: are_accuracies(list(by_seed[task].values()), task) for task in scored}
    for task in scored:
        outcomes = measured(list(by_seed[task].values()), task, "score")
        values[task] = mean_over_tasks([outcomes], ACCURACIES if bounded[task] else None)
    every = all(bounded.values())
    # A mean over tasks uses the seeds that all tasks have.
    seeds = sorted(set.intersection(*(set(by_seed[task]) for task in scored))) if scored else []
    if seeds:
        common = {task: [by_seed[task][seed] for seed in seeds] for task in scored}
        after = {task: measured(runs, task, "score") for task, runs in common.items()}
        if AVERAGE in values:
            values[AVERAGE] = mean_over_tasks(list(after.values()), ACCURACIES if every else None)
        if GAIN in values and untrained is not None and _pairs(common, untrained):
            gains = [after[task] - measured([untrained], task, "score") for task in after]
            values[GAIN] = mean_over_tasks(gains, DIFFERENCES if every else None)
        values |= _probabilities({task: common[task] for task in sharp if task in common})
    count = row.trainable_parameters
    millions = f"{count / 1e6:.2f}" if count >= 1e5 else f"{count / 1e6:.2g}"
    shown = f"{row.trainable_percent:.2f}" if unit == "percent" else millions
    finished = [result for spec in row.specs if (result := results[spec.hash]) is not None]
    if UNPARSED in values and finished:
        unparsed = fmean(score.unparsed for result in finished for score in result.scores.values())
        values[UNPARSED] = Estimate(100 * unparsed, None, len(finished))
    return TableRow(
        id=row.id,
        label=row.label + (EXTRA if row.extra else ""),
        params=shown if count else "0",
        values=values,
        runs=(len(finished), len(row.specs)),
        collapsed=frozenset(
            name for result in finished for name, score in result.scores.items() if score.constant
        ),
        averaged=tuple(scored) if len(scored) < len(tasks) else None,
        unequal={task: counts for task, counts in items.items() if len(counts) > 1},
    )


def _probabilities(runs: Mapping[str, Sequence[Result]]) -> dict[str, Estimate | None]:
    """The mean probability and the mean log-probability over tasks; nothing if a run lacks the numbers."""
    if not runs or not all(has_measure(own, task, "probability") for task, own in runs.items()):
        return {}
    probabilities = [measured(own, task, "probability") for task, own in runs.items()]
    logs = [log_probabilities(own, task) for task, own in runs.items()]
    return {PROBABILITY: mean_over_tasks(probabilities, ACCURACIES), LOG_PROBABILITY: mean_over_tasks(logs)}


def _pairs(runs: Mapping[str, Sequence[Result]], untrained: Result) -> bool:
    """Whether all runs and the untrained model have the same items."""
    return all(task in untrained.scores and same_items([*own, untrained], task) for task, own in runs.items())


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
    values = {
        column: None if (number := row.number(column)) is None else Estimate(float(number), None, 1)
        for column in row.values
    }
    return TableRow(
        id=row.row,
        label=row.label,
        params=row.params,
        values=values,
        printed={column: text for column, text in row.values.items() if text},
        bold=row.bold,
    )


def _notes(plan: Plan, results: Mapping[str, Result | None], groups: Sequence[TableGroup]) -> list[str]:
    """The notes below a table: models, data, protocol, seeds, and what the profile changes."""
    experiment, profile, first = plan.experiment, plan.profile, plan.rows[0].specs[0]
    done = [result for result in results.values() if result is not None]
    seeds = sorted({spec.seed for spec in plan.runs.values()})
    notes = [
        f"Profile {profile.name}: {profile.purpose}.",
        f"Data and protocol: {first.benchmark.note}",
        f"Training: {_training(plan)}",
        f"Seeds: {', '.join(map(str, seeds))}. 'runs' is finished/expected runs; ± is a 95 % interval over "
        "test items"
        + (" and seeds." if len(seeds) > 1 else "; one seed says nothing about the spread between seeds."),
        f"{_PARAMS[experiment.params]}: {_PARAMS_NOTE[experiment.params]}, heads not counted.",
    ]
    if type(first.benchmark).averaged and any(not row.specs[0].method.trains for row in plan.rows):
        notes.append("'vs Base' is the difference from the untrained model's average, paired by item.")
    if any(PROBABILITY in row.values for group in groups for row in group.rows):
        notes.append(
            f"'Prob.' is the mean probability {type(first.benchmark).gold}, in percent, as a mean over "
            f"tasks; '{LOG_PROBABILITY}' in the CSV file is the mean of its log, in nats. Rows of runs that "
            "an older version scored have none."
        )
    if any(UNPARSED in row.values for group in groups for row in group.rows):
        notes.append(
            "'Unread' is the percentage of answers that could not be read and count as wrong, as a mean over "
            "tasks."
        )
    if profile.family(experiment.family).model is not None:
        blocks = ", ".join(block.model for block in experiment.blocks)
        notes.append(
            f"Stand-in: this profile runs {plan.rows[0].block} instead of the paper's models ({blocks}), "
            "with the experiment's stand-in rows. Compare the order of methods with the paper's, not levels."
        )
    chosen = profile.part(experiment.name).rows
    if chosen:
        notes.append(
            f"This profile runs some of the experiment's rows and leaves out the others: {', '.join(chosen)}."
        )
    notes += plan.footnotes()
    notes += experiment.paper_notes
    if done:
        notes.append(f"Metrics: {_metrics(plan, done)}.")
    notes += scoring_notes(plan.rows, results)
    versions = sorted({str(result.evaluation.scorer_version) for result in done})
    if versions:
        commits = sorted({_commit(result) for result in done})
        machines = sorted({result.environment.hardware for result in done})
        notes.append(
            f"Measured with scorer version {', '.join(versions)} and code {', '.join(commits)} "
            f"on {', '.join(machines)}."
        )
    notes += _truncated(plan, done)
    if any(group.source == "paper" for group in groups):
        notes.append(
            "Rows under 'Paper' are quoted as printed, with bold and dashes; none of them was measured here."
        )
    if any(row.extra for row in plan.rows):
        notes.append(f"{EXTRA.strip()} added by this project; not in the paper's table.")
    notes += [
        f"{group.block}, {row.label}, {plan.columns[column]}: no value, since its seeds were tested on "
        f"different numbers of items ({', '.join(map(str, counts))})."
        for group in groups
        for row in group.rows
        for column, counts in row.unequal.items()
    ]
    if any(row.collapsed for group in groups for row in group.rows):
        notes.append("* at least one run gave every item of this task the same answer.")
    return notes


def _truncated(plan: Plan, done: Sequence[Result]) -> Iterator[str]:
    """For each model, the largest share of training texts that one of its runs cut."""
    models = {spec.hash: spec.model.name for spec in plan.runs.values()}
    for model in dict.fromkeys(models.values()):
        shares = [result.training.truncated or {} for result in done if models[result.hash] == model]
        largest = max(shares, key=lambda share: share.get(ALL, 0.0), default={})
        if largest.get(ALL):
            parts = [f"{plan.columns.get(part, part)} {100 * share:.1f} %" for part, share in largest.items()]
            yield f"{model}: training texts above max_tokens, which were cut: {', '.join(parts)}."


def _metrics(plan: Plan, done: Sequence[Result]) -> str:
    """Every metric by its full name, with its columns."""
    columns: dict[str, list[str]] = {}
    for name, heading in plan.columns.items():
        for metric in dict.fromkeys(r.scores[name].metric for r in done if name in r.scores):
            columns.setdefault(metric, []).append(heading)
    return "; ".join(f"{metric} in {', '.join(headings)}" for metric, headings in columns.items())


def _training(plan: Plan) -> str:
    """The training in words; settings that differ between rows or tasks are "various", see `repro plan`."""
    trainings = [spec.training for row in plan.rows for spec in row.specs]

    def shared(name: str) -> str:
        values = {getattr(training, name) for training in trainings}
        return str(values.pop()).replace("_", " ") if len(values) == 1 else "various"

    warmup = f"{shared('warmup_steps')} warm-up steps"
    if any(training.warmup_ratio for training in trainings):
        warmup = f"warm-up over a share of {shared('warmup_ratio')}"
    return (
        f"{shared('epochs')} epoch(s) in batches of {shared('batch_size')}, {shared('schedule')} schedule, "
        f"{warmup}, AdamW with weight decay {shared('weight_decay')}, loss on {shared('loss_on')}, "
        f"{shared('precision')}, {shared('selection')} weights."
    )


def _commit(result: Result) -> str:
    environment = result.environment
    if environment.commit is None:
        return "outside a checkout"
    return environment.commit[:10] + (" with uncommitted changes" if environment.dirty else "")
