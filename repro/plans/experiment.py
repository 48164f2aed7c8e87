"""One table of the paper as data: a YAML file, laid over a profile, becomes cells and runs.

Settings are laid over each other in this order, the later ones winning: the experiment's defaults, the
block's, the preset's for the model, the profile's for the family, the row's; in each, what holds for one task
over what holds for all. What comes out is a `RunSpec` for each row and seed (and task, where every task is
trained by itself), checked before anything runs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from repro.benchmarks.base import benchmark_families
from repro.config import ConfigError, Frozen, one_of, parse, read_yaml
from repro.methods.registry import METHODS
from repro.models.shapes import base_parameters, linear_shapes
from repro.models.spec import load_model_spec
from repro.paths import EXPERIMENTS
from repro.plans.execution import Execution
from repro.plans.grid import check_axes, nested, points
from repro.plans.profile import Profile
from repro.plans.settings import Settings, laid_over, load_preset
from repro.plans.spec import InitFrom, RunSpec, flatten


class InitRule(Frozen):
    """Which tasks of a row start from the row's run of another task.

    Attributes:
        task: the task whose run is started from. A profile without it starts every task from the base model.
        tasks: those that start there.
        reading: `own`, the run of the row's own method; `merged_lora`, a run of `lora`, merged.
        lora: settings of that method.
    """

    task: str
    tasks: tuple[str, ...]
    reading: Literal["own", "merged_lora"] = "own"
    lora: dict[str, Any] = {}


class Row(Settings):
    """One row: a method and whatever it needs changed.

    Attributes:
        id: the row's name within its block, the same as in the paper's numbers (`results/paper`).
        label: what the table prints, by default the method's own label.
        targets: the modules to adapt, where they are not those of the model's file.
        preset: published settings in the place of the experiment's preset.
        init_from: tasks that start from another task's run.
        vary: axes of a sweep; the row then stands for one row a point of their grid.
        extra: whether the row is this project's own, and the paper's table has none like it.
    """

    id: str
    method: dict[str, Any]
    label: str | None = None
    extra: bool = False
    targets: tuple[str, ...] | None = None
    preset: str | None = None
    init_from: InitRule | None = None
    vary: tuple[dict[str, tuple[Any, ...]], ...] = ()

    @model_validator(mode="after")
    def _is_a_grid(self) -> Row:
        check_axes(self.vary)
        return self

    def points(self) -> list[Row]:
        """This row, or the rows of its grid: ids and labels end in what varies."""
        if not self.vary:
            return [self]
        leading = [next(iter(axis)) for axis in self.vary]
        rows = []
        for point in points(self.vary):
            shown = {key.rsplit(".", 1)[-1]: point[key] for key in leading}
            content = laid_over([self.model_dump(exclude={"vary"}), nested(point)])
            content["id"] = "-".join([self.id, *map(str, shown.values())])
            method = METHODS.get(self.method.get("name", ""))
            label = self.label or (method.label if method else self.id)
            content["label"] = ", ".join([label, *(f"{key} {value}" for key, value in shown.items())])
            rows.append(parse(content, Row, f"row {self.id}"))
        return rows


class Block(Settings):
    """Rows that share a model."""

    model: str
    rows: tuple[Row, ...] = Field(min_length=1)


class Collapsed(Settings):
    """The rows for profiles that put one small model in the place of all blocks."""

    rows: tuple[Row, ...] = Field(min_length=1)


class Sweep(Frozen):
    """How a sweep is drawn: every row that varies is a curve, every other row a horizontal line.

    Attributes:
        x: the spec's dotted key that a point's place on the axis is read from.
        label: of that axis.
    """

    x: str
    label: str


class RankAnalysis(Frozen):
    """An analysis of the update's rank, in every row's finished runs and in random matrices.

    Attributes:
        random_size, random_rank: of a square update of Gaussian factors, r1 = r2.
    """

    random_size: int = Field(gt=1)
    random_rank: int = Field(gt=0)


class Experiment(Frozen):
    """One table or sweep of the paper.

    Attributes:
        sweep: how its figure is drawn, where it is a sweep.
        ranks: where the ranks of its runs' updates are what it is about.
        preset: published settings that hold for every row which names no other; profiles that put another
            model in the place of the paper's leave them out.
        params: unit of the table's column of trained parameters.
        axes: patterns of dotted spec keys in which the rows of a block may differ, for instance `method.*`.
        footnotes: other such patterns, each with the sentence that the table prints about the difference.
        paper_notes: what a reader must know about the paper's own rows.
    """

    name: str
    title: str
    family: str
    preset: str | None = None
    params: Literal["percent", "millions"] = "percent"
    axes: tuple[str, ...]
    footnotes: dict[str, str] = {}
    paper_notes: tuple[str, ...] = ()
    sweep: Sweep | None = None
    ranks: RankAnalysis | None = None
    defaults: Settings
    blocks: tuple[Block, ...] = Field(min_length=1)
    collapsed: Collapsed

    @model_validator(mode="after")
    def _rows_are_told_apart(self) -> Experiment:
        for place, rows in [("collapsed", self.collapsed.rows), *((b.model, b.rows) for b in self.blocks)]:
            ids = [point.id for row in rows for point in row.points()]
            repeated = sorted({i for i in ids if ids.count(i) > 1})
            if repeated:
                raise ValueError(
                    f"{place}: two rows have the id {repeated[0]!r}; ids must differ within a block"
                )
        return self


@dataclass(frozen=True)
class PlannedRow:
    """A row under a profile: one spec a seed, for every task that is trained by itself.

    Attributes:
        curve: id of the row in the file that this is a point of, where that row varies.
        extra: as the file says.
    """

    block: str
    id: str
    label: str
    specs: tuple[RunSpec, ...]
    curve: str | None = None
    extra: bool = False

    def specs_for(self, column: str) -> list[RunSpec]:
        """The runs behind a column."""
        return [spec for spec in self.specs if column in spec.benchmark.columns]

    @property
    def columns(self) -> dict[str, str]:
        """The columns that this row fills, and their headings."""
        return {name: heading for spec in self.specs for name, heading in spec.benchmark.columns.items()}

    @cached_property
    def trainable_parameters(self) -> int:
        """By formula from the model's declared shapes; the runner asserts the same of what it builds."""
        spec = self.specs[0]
        shapes = linear_shapes(spec.model.architecture, spec.adapted_modules)
        return spec.method.trainable_parameters(shapes, base_parameters(spec.model.architecture))

    @property
    def trainable_percent(self) -> float:
        """Of base and adapter together, as in the paper's column; of the base where nothing is added."""
        base = base_parameters(self.specs[0].model.architecture)
        trained = self.trainable_parameters
        return 100 * trained / max(base, trained if trained == base else base + trained)


@dataclass(frozen=True)
class Cell:
    """One number of a table: a score in a row, over the runs behind it."""

    row: PlannedRow
    column: str


@dataclass(frozen=True)
class Plan:
    """An experiment under a profile.

    Attributes:
        local_data: whether the profile's settings for local data are among the runs'.
    """

    experiment: Experiment
    profile: Profile
    rows: tuple[PlannedRow, ...]
    local_data: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """The table's columns and their headings: the experiment's, even where the profile fills fewer."""
        headings = benchmark_families()[self.experiment.family].headings()
        tasks = self.experiment.defaults.benchmark.get("tasks", headings)
        return {name: heading for name, heading in headings.items() if name in tasks}

    @property
    def cells(self) -> list[Cell]:
        return [Cell(row, column) for row in self.rows for column in row.columns]

    @property
    def runs(self) -> dict[str, RunSpec]:
        """Every run that the cells need, once each, by hash; a run follows the one that it starts from."""
        needed: dict[str, RunSpec] = {}
        for spec in (spec for row in self.rows for spec in row.specs):
            if spec.init_from is not None:
                needed[spec.init_from.run.hash] = spec.init_from.run
            needed[spec.hash] = spec
        return needed

    def run(self, name: str) -> RunSpec:
        """The run with a hash, or with a number in the order of `runs`, counted from 0.

        Raises:
            ConfigError: there is none.
        """
        runs = self.runs
        if name in runs:
            return runs[name]
        if name.isdecimal() and int(name) < len(runs):
            return list(runs.values())[int(name)]
        raise ConfigError(
            f"{self.experiment.name}, profile {self.profile.name}: no run {name!r}; allowed: a hash that "
            f"`repro plan` shows, or 0 to {len(runs) - 1}. A hash changes when a setting of the run is edited"
        )

    def only(self, patterns: Sequence[str]) -> Plan:
        """The same with the rows whose id matches a pattern (`lora*`) alone.

        Raises:
            ConfigError: a pattern matches no row.
        """
        ids = dict.fromkeys(row.id for row in self.rows)
        for pattern in patterns:
            if not any(fnmatchcase(row, pattern) for row in ids):
                raise ConfigError(f"{self.experiment.name}: {one_of('row', pattern, ids)}")
        kept = (row for row in self.rows if any(fnmatchcase(row.id, pattern) for pattern in patterns))
        return replace(self, rows=tuple(kept))

    def execution(self, spec: RunSpec) -> Execution:
        """How a run is executed here."""
        return self.profile.execution_for(self.experiment.family, spec.model.name)

    def footnotes(self) -> list[str]:
        """The footnotes that apply: those whose pattern matches a key in which rows really differ."""
        differing = {key for rows in self._blocks().values() for key in _differing(rows)}
        notes = self.experiment.footnotes
        return [
            text for pattern, text in notes.items() if any(fnmatchcase(key, pattern) for key in differing)
        ]

    def check_fairness(self) -> None:
        """Refuse rows that differ where the file does not say so.

        Raises:
            ConfigError: one line for each undeclared difference.
        """
        allowed = (*self.experiment.axes, *self.experiment.footnotes)
        lines = []
        for block, rows in self._blocks().items():
            for key, values in _differing(rows).items():
                if not any(fnmatchcase(key, pattern) for pattern in allowed):
                    shown = ", ".join(f"{row}: {value!r}" for row, value in values.items())
                    lines.append(
                        f"experiments/{self.experiment.name}.yaml, block {block}: rows differ in {key} "
                        f"({shown}); make them equal, or add the key to axes, or to footnotes with the reason"
                    )
        if lines:
            raise ConfigError("\n".join(lines))

    def _blocks(self) -> dict[str, list[PlannedRow]]:
        blocks: dict[str, list[PlannedRow]] = {}
        for row in self.rows:
            blocks.setdefault(row.block, []).append(row)
        return blocks


def list_experiments(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all experiments."""
    files = [*experiments.glob("*.yaml"), *experiments.glob("sweeps/*.yaml")]
    return sorted(path.relative_to(experiments).with_suffix("").as_posix() for path in files)


def load_experiment(name: str, experiments: Path = EXPERIMENTS) -> Experiment:
    """Read an experiment. Its `defaults` may name another experiment, whose defaults it then shares.

    Raises:
        ConfigError: there is no such experiment, or its file is wrong.
    """
    if name not in list_experiments(experiments):
        raise ConfigError(one_of("experiment", name, list_experiments(experiments)))
    path = experiments / f"{name}.yaml"
    content = read_yaml(path)
    if isinstance(content, dict) and isinstance(shared := content.get("defaults"), str):
        content = content | {"defaults": load_experiment(shared, experiments).defaults.model_dump()}
    return parse(content, Experiment, str(path))


def plan(
    experiment: Experiment,
    profile: Profile,
    seeds: Sequence[int] | None = None,
    *,
    local_data: bool | None = None,
) -> Plan:
    """Expand an experiment under a profile and check it.

    Args:
        seeds: in the place of the profile's.
        local_data: whether the profile's settings for local data hold; None asks whether REPRO_DATA_DIR
            names a folder of it.

    Raises:
        ConfigError: a setting does not fit, or rows differ where they may not.
    """
    if local_data is None:
        local_data = bool(os.environ.get("REPRO_DATA_DIR"))
    family = profile.family(experiment.family)
    if family.model is None:
        blocks = experiment.blocks
    else:
        blocks = (Block(model=family.model, **dict(experiment.collapsed)),)
    rows = tuple(
        _planned_row(
            experiment,
            profile,
            block,
            point,
            seeds=seeds or profile.seeds,
            curve=row.id if row.vary else None,
            local_data=local_data,
        )
        for block in blocks
        for row in block.rows
        for point in row.points()
    )
    planned = Plan(experiment, profile, _told_apart(rows), local_data)
    planned.check_fairness()
    return planned


def _told_apart(rows: Sequence[PlannedRow]) -> tuple[PlannedRow, ...]:
    """The rows, those of one block with the same label by their ranks."""
    counts = Counter((row.block, row.label) for row in rows)
    return tuple(
        replace(row, label=f"{row.label}, r {row.specs[0].method.printed_rank}")
        if counts[row.block, row.label] > 1 and row.specs[0].method.printed_rank
        else row
        for row in rows
    )


def _planned_row(
    experiment: Experiment,
    profile: Profile,
    block: Block,
    row: Row,
    *,
    seeds: Sequence[int],
    curve: str | None,
    local_data: bool,
) -> PlannedRow:
    family = profile.family(experiment.family)
    source = f"experiments/{experiment.name}.yaml, row {row.id}, profile {profile.name}"
    method_name = row.method.get("name")
    if method_name not in METHODS:
        raise ConfigError(f"{source}: method.name: {one_of('method', method_name, METHODS)}")
    method = METHODS[method_name]
    preset_name = row.preset or experiment.preset
    preset = load_preset(preset_name, block.model) if preset_name and family.model is None else Settings()
    model = load_model_spec(block.model).for_family(experiment.family)
    quantization = profile.model(block.model).quantization
    if quantization is not None:
        model = model.model_copy(update={"quantization": quantization})

    def spec(task: str | None, seed: int, method: Mapping[str, Any]) -> RunSpec:
        local = family.local_data if local_data else Settings()
        parts: list[Settings] = [experiment.defaults, block, preset, family, local, row]
        layers = [layer for part in parts for layer in part.layers(task)]
        alone = {"tasks": [task]} if task else {}
        content = {
            "model": model,
            "method": laid_over([*(layer.methods.get(method["name"], {}) for layer in layers), method]),
            "benchmark": laid_over(
                [{"family": experiment.family}, *(layer.benchmark for layer in layers), alone]
            ),
            "training": laid_over([layer.training for layer in layers]),
            "seed": seed,
            "targets": row.targets,
        }
        return parse(content, RunSpec, source)

    def started(task: str | None, seed: int) -> RunSpec:
        """The spec of a run, with the run that it starts from."""
        own, rule = spec(task, seed, row.method), row.init_from
        if rule is None or rule.task not in tasks or task not in rule.tasks:
            return own
        reading: Literal["adapter", "merged"] = "adapter" if rule.reading == "own" else "merged"
        first = row.method if rule.reading == "own" else {"name": "lora"} | rule.lora
        return own.model_copy(
            update={"init_from": InitFrom(reading=reading, run=spec(rule.task, seed, first))}
        )

    # Without training there is nothing for a second seed to change.
    used = seeds if method.trains else seeds[:1]
    tasks: Sequence[str | None] = [None]
    if benchmark_families()[experiment.family].run_per_task:
        tasks = list(spec(None, seeds[0], row.method).benchmark.columns)
    specs = tuple(started(task, seed) for task in tasks for seed in used)
    try:
        linear_shapes(model.architecture, specs[0].adapted_modules)
    except ValueError as error:
        raise ConfigError(f"{source}: targets: {error}") from error
    return PlannedRow(block.model, row.id, row.label or method.label, specs, curve, row.extra)


def _differing(rows: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
    """Spec keys in which rows differ over the same task, seeds apart: for each key the value of every row."""
    differing: dict[str, dict[str, Any]] = {}
    tasks = dict.fromkeys(tuple(spec.benchmark.columns) for row in rows for spec in row.specs)
    for task in tasks:
        first = {
            row.id: next((spec for spec in row.specs if tuple(spec.benchmark.columns) == task), None)
            for row in rows
        }
        flat = {id: flatten(spec.model_dump(mode="json")) for id, spec in first.items() if spec is not None}
        keys = sorted({key for values in flat.values() for key in values} - {"seed", "init_from.run.seed"})
        for key in keys:
            values = {row: values.get(key) for row, values in flat.items()}
            if len({repr(value) for value in values.values()}) > 1:
                differing.setdefault(key, values)
    return differing
