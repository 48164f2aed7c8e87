"""The schema of `experiments/*.yaml`, tables, figures, sweeps and questions, and how these files are read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from repro.benchmarks.base import benchmark_families
from repro.config import (
    ConfigError,
    ExperimentName,
    Frozen,
    Line,
    Name,
    check_name,
    one_of,
    parse,
    read_yaml,
)
from repro.methods.registry import METHODS
from repro.paths import EXPERIMENTS
from repro.plans.grid import check_axes, nested, points
from repro.plans.settings import Settings, deep_merge

LEARNING_RATE = "training.learning_rate"
"""The spec key that a search or a sweep of the learning rate varies."""

# Keys of an experiment's file that were renamed, old to new. Files with the old key are still read.
RENAMED = {"collapsed": "stand_in"}


class InitRule(Frozen):
    """Which tasks of a row start from the row's run of another task.

    Attributes:
        task: the task whose run is the starting point; profiles without it start from the base model.
        tasks: the tasks that start from it.
        reading: `own` continues the row's own run; `merged_lora` merges a `lora` run into the base model.
        lora: settings of that `lora` run.
    """

    task: str
    tasks: tuple[str, ...] = Field(min_length=1)
    reading: Literal["own", "merged_lora"] = "own"
    lora: dict[str, Any] = {}


class Row(Settings):
    """One row: a method and the settings that differ for it.

    Attributes:
        id: the row's name within its block, the same as in the paper's numbers (`results/paper`).
        label: what the table prints, by default the method's own label and its rank.
        targets: modules to adapt; None uses those of the model's file.
        preset: preset that replaces the experiment's.
        init_from: tasks that start from another task's run.
        vary: axes of a sweep; the row expands to one row per grid point.
        extra: whether the row is this project's addition, without a counterpart in the paper's table.
    """

    id: Name
    method: dict[str, Any]
    label: Line | None = None
    extra: bool = False
    targets: tuple[Line, ...] | None = Field(default=None, min_length=1)
    preset: Name | None = None
    init_from: InitRule | None = None
    vary: tuple[dict[str, tuple[Any, ...]], ...] = ()

    @model_validator(mode="after")
    def _is_a_grid(self) -> Row:
        check_axes(self.vary)
        if not isinstance(self.method.get("name"), str):
            raise ValueError(f"method.name: missing, or no text (known: {', '.join(METHODS)})")
        return self

    def points(self) -> list[Row]:
        """This row, or one row per grid point, whose id and label end in the values that vary."""
        if not self.vary:
            return [self]
        leading = [next(iter(axis)) for axis in self.vary]
        rows = []
        for point in points(self.vary):
            shown = {key.rsplit(".", 1)[-1]: point[key] for key in leading}
            content = deep_merge([self.model_dump(exclude={"vary"}), nested(point)])
            content["id"] = "-".join([self.id, *map(str, shown.values())])
            method = METHODS.get(self.method.get("name", ""))
            label = self.label or (method.label if method else self.id)
            content["label"] = ", ".join([label, *(f"{key} {value}" for key, value in shown.items())])
            rows.append(parse(content, Row, f"row {self.id}"))
        return rows


class Block(Settings):
    """The rows of one base model."""

    model: Name
    rows: tuple[Row, ...] = Field(min_length=1)


class StandIn(Settings):
    """The rows for profiles whose stand-in model replaces all blocks."""

    rows: tuple[Row, ...] = Field(min_length=1)


class Sweep(Frozen):
    """How a sweep is drawn: rows that vary are curves, other rows are horizontal lines.

    Attributes:
        x: dotted spec key whose value is a point's x coordinate.
        label: label of the x axis.
        column: the column that is drawn and whose peaks are found; None for the average.
    """

    x: Line
    label: Line
    column: Name | None = None


class RankAnalysis(Frozen):
    """The rank of ΔW, in finished runs and in a square update of Gaussian factors.

    Attributes:
        random_size: size of the random update, (random_size, random_size).
        random_rank: rank r1 = r2 of its factors.
    """

    random_size: int = Field(gt=1, le=2**16)
    random_rank: int = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> RankAnalysis:
        if self.random_rank > self.random_size:
            raise ValueError(f"random_rank {self.random_rank} is above random_size, {self.random_size}")
        return self


class Experiment(Frozen):
    """One table or figure of the paper, a sweep, or a question that the paper raises.

    Attributes:
        sweep: how the figure is drawn; None if the experiment is not a sweep.
        ranks: settings of the rank analysis; None if the experiment has none.
        preset: published settings for every row that names no other preset; ignored with a stand-in model.
        params: unit of the column of trained parameters.
        axes: patterns of dotted spec keys in which the rows of a block may differ, for instance `method.*`.
        footnotes: more such patterns, each with the sentence that the table prints about the difference.
        paper_notes: what a reader must know about the paper's own rows.
    """

    name: ExperimentName
    title: Line
    family: str
    preset: Name | None = None
    params: Literal["percent", "millions"] = "percent"
    axes: tuple[Line, ...]
    footnotes: dict[Line, Line] = {}
    paper_notes: tuple[Line, ...] = ()
    sweep: Sweep | None = None
    ranks: RankAnalysis | None = None
    defaults: Settings
    blocks: tuple[Block, ...] = Field(min_length=1)
    stand_in: StandIn

    @model_validator(mode="after")
    def _settings_are_the_family_s(self) -> Experiment:
        families = benchmark_families()
        if self.family not in families:
            raise ValueError(f"family: {one_of('benchmark family', self.family, families)}")
        benchmark, lines = families[self.family], []
        for place, settings in self._settings():
            lines += [f"{place}: {line}" for line in settings.problems(self.family)]
            rule = settings.init_from if isinstance(settings, Row) else None
            if rule is not None and not benchmark.run_per_task:
                lines.append(f"{place}: init_from: {self.family} is trained on all of its tasks at once")
            elif rule is not None:
                known = benchmark.headings()
                unknown = [task for task in (rule.task, *rule.tasks) if task not in known]
                lines += [f"{place}: init_from: {one_of('task', task, known)}" for task in unknown]
        if lines:
            raise ValueError("\n".join(lines))
        return self

    def _settings(self) -> Iterator[tuple[str, Settings]]:
        """All settings, each with its place in the file."""
        yield "defaults", self.defaults
        groups: list[tuple[str, Block | StandIn]] = [("stand_in", self.stand_in)]
        for place, group in groups + [(f"block {block.model}", block) for block in self.blocks]:
            yield place, group
            yield from ((f"{place}, row {row.id}", row) for row in group.rows)

    @model_validator(mode="after")
    def _sweep_is_of_a_column_and_varies_x(self) -> Experiment:
        if self.sweep is None:
            return self
        family = benchmark_families()[self.family]
        if self.sweep.column is not None:
            known = family.headings()
            if self.sweep.column not in known:
                raise ValueError(f"sweep.column: {one_of('column', self.sweep.column, known)}")
        elif not family.averaged:
            raise ValueError(
                f"sweep.column: missing, and {self.family} has no average; name one of "
                + ", ".join(family.headings())
            )
        for place, rows in [("stand_in", self.stand_in.rows), *((b.model, b.rows) for b in self.blocks)]:
            varied = {key for row in rows for axis in row.vary for key in axis}
            if rows and self.sweep.x not in varied:
                raise ValueError(
                    f"{place}: no row varies sweep.x, {self.sweep.x!r}; its rows vary "
                    + (", ".join(sorted(varied)) or "nothing")
                )
        return self

    @model_validator(mode="after")
    def _rows_are_told_apart(self) -> Experiment:
        for place, rows in [("stand_in", self.stand_in.rows), *((b.model, b.rows) for b in self.blocks)]:
            ids = [point.id for row in rows for point in row.points()]
            repeated = sorted({i for i in ids if ids.count(i) > 1})
            if repeated:
                raise ValueError(
                    f"{place}: two rows have the id {repeated[0]!r}; ids must differ within a block"
                )
        return self


def list_experiments(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all experiments."""
    files = [path for folder in ("", "sweeps/", "questions/") for path in experiments.glob(f"{folder}*.yaml")]
    return sorted(path.relative_to(experiments).with_suffix("").as_posix() for path in files)


def load_experiment(
    name: str, experiments: Path = EXPERIMENTS, *, shared_by: tuple[str, ...] = ()
) -> Experiment:
    """Read an experiment. Its `defaults` may name another experiment, to share its defaults.

    Args:
        shared_by: experiments that are being read: each takes its defaults from the next, the last from this.

    Raises:
        ConfigError: there is no such experiment, or its file is invalid.
    """
    if name not in list_experiments(experiments):
        raise ConfigError(one_of("experiment", name, list_experiments(experiments)))
    path = experiments / f"{name}.yaml"
    content = _current_keys(read_yaml(path), path)
    if isinstance(content, dict) and isinstance(shared := content.get("defaults"), str):
        chain = (*shared_by, name)
        if shared in chain:
            raise ConfigError(f"{path}: defaults: {' -> '.join([*chain, shared])} never ends; write them out")
        if shared not in list_experiments(experiments):
            known = one_of("experiment", shared, list_experiments(experiments))
            raise ConfigError(f"{path}: defaults: {known}")
        defaults = load_experiment(shared, experiments, shared_by=chain).defaults
        content = content | {"defaults": defaults.model_dump()}
    experiment = parse(content, Experiment, str(path))
    check_name(experiment, name, path)
    return experiment


def _current_keys(content: Any, path: Path) -> Any:
    """The content with renamed keys replaced, unless the file has both."""
    for old, new in RENAMED.items():
        if isinstance(content, dict) and old in content and new not in content:
            content = {new if key == old else key: value for key, value in content.items()}
            _say_once(f"{path}: key {old!r} is now {new!r}; rename it")
    return content


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)
