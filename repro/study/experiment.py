"""One table of the paper as data: a YAML file, laid over a profile, becomes cells and runs.

Settings are laid over each other in this order, the later ones winning: the experiment's defaults, the
block's, the profile's for the family, the row's. What comes out is a `RunSpec` for each row and seed, checked
before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from repro.config import ConfigError, Frozen, load_yaml, one_of, parse
from repro.methods.registry import METHODS
from repro.models.shapes import base_parameters, linear_shapes
from repro.models.spec import load_model_spec
from repro.paths import EXPERIMENTS
from repro.study.profile import Profile
from repro.study.spec import RunSpec, flatten


class Settings(Frozen):
    """Settings to be laid over others."""

    benchmark: dict[str, Any] = {}
    training: dict[str, Any] = {}


class Row(Settings):
    """One row: a method and whatever it needs changed.

    Attributes:
        id: the row's name within its block, the same as in the paper's numbers (`results/paper`).
        label: what the table prints, by default the method's own label.
    """

    id: str
    method: dict[str, Any]
    label: str | None = None


class Block(Settings):
    """Rows that share a model."""

    model: str
    rows: tuple[Row, ...] = Field(min_length=1)


class Collapsed(Settings):
    """The rows for profiles that put one small model in the place of all blocks."""

    rows: tuple[Row, ...] = Field(min_length=1)


class Experiment(Frozen):
    """One table of the paper.

    Attributes:
        axes: patterns of dotted spec keys in which the rows of a block may differ, for instance `method.*`.
        footnotes: other such patterns, each with the sentence that the table prints about the difference.
        paper_notes: what a reader must know about the paper's own rows.
    """

    name: str
    title: str
    family: str
    axes: tuple[str, ...]
    footnotes: dict[str, str] = {}
    paper_notes: tuple[str, ...] = ()
    defaults: Settings
    blocks: tuple[Block, ...] = Field(min_length=1)
    collapsed: Collapsed

    @model_validator(mode="after")
    def _rows_are_told_apart(self) -> Experiment:
        for place, rows in [("collapsed", self.collapsed.rows), *((b.model, b.rows) for b in self.blocks)]:
            ids = [row.id for row in rows]
            repeated = sorted({i for i in ids if ids.count(i) > 1})
            if repeated:
                raise ValueError(
                    f"{place}: two rows have the id {repeated[0]!r}; ids must differ within a block"
                )
        return self


@dataclass(frozen=True)
class PlannedRow:
    """A row under a profile: one spec a seed, and how many parameters it trains."""

    block: str
    id: str
    label: str
    specs: tuple[RunSpec, ...]

    @cached_property
    def trainable_parameters(self) -> int:
        """By formula from the model's declared shapes; the runner asserts the same of what it builds."""
        spec = self.specs[0]
        shapes = linear_shapes(spec.model.architecture, spec.model.targets_for(spec.benchmark.family))
        return spec.method.trainable_parameters(shapes, base_parameters(spec.model.architecture))

    @property
    def trainable_percent(self) -> float:
        """Of base and adapter together, as in the paper's column; of the base where nothing is added."""
        base = base_parameters(self.specs[0].model.architecture)
        trained = self.trainable_parameters
        return 100 * trained / max(base, trained if trained == base else base + trained)


@dataclass(frozen=True)
class Cell:
    """One number of a table: a task's score in a row, over that row's runs."""

    row: PlannedRow
    task: str


@dataclass(frozen=True)
class Plan:
    """An experiment under a profile."""

    experiment: Experiment
    profile: Profile
    rows: tuple[PlannedRow, ...]

    @property
    def cells(self) -> list[Cell]:
        return [Cell(row, task) for row in self.rows for task in row.specs[0].benchmark.columns]

    @property
    def runs(self) -> dict[str, RunSpec]:
        """Every run that the cells need, once each, by hash."""
        return {spec.hash: spec for row in self.rows for spec in row.specs}

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
    return sorted(path.stem for path in experiments.glob("*.yaml"))


def load_experiment(name: str, experiments: Path = EXPERIMENTS) -> Experiment:
    """Read an experiment.

    Raises:
        ConfigError: there is no such experiment, or its file is wrong.
    """
    if name not in list_experiments(experiments):
        raise ConfigError(one_of("experiment", name, list_experiments(experiments)))
    return load_yaml(experiments / f"{name}.yaml", Experiment)


def plan(experiment: Experiment, profile: Profile, seeds: Sequence[int] | None = None) -> Plan:
    """Expand an experiment under a profile (`seeds` replaces the profile's) and check it.

    Raises:
        ConfigError: a setting does not fit, or rows differ where they may not.
    """
    family = profile.family(experiment.family)
    if family.model is None:
        blocks = experiment.blocks
    else:
        blocks = (Block(model=family.model, **dict(experiment.collapsed)),)
    rows = tuple(
        _planned_row(experiment, profile, block, row, seeds or profile.seeds)
        for block in blocks
        for row in block.rows
    )
    planned = Plan(experiment, profile, rows)
    planned.check_fairness()
    return planned


def _planned_row(
    experiment: Experiment, profile: Profile, block: Block, row: Row, seeds: Sequence[int]
) -> PlannedRow:
    family = profile.family(experiment.family)
    layers: list[Settings | Any] = [experiment.defaults, block, family, row]
    source = f"experiments/{experiment.name}.yaml, row {row.id}, profile {profile.name}"
    method_name = row.method.get("name")
    if method_name not in METHODS:
        raise ConfigError(f"{source}: method.name: {one_of('method', method_name, METHODS)}")
    content = {
        "model": load_model_spec(block.model),
        "method": family.methods.get(method_name, {}) | row.method,
        "benchmark": _laid_over([{"family": experiment.family}, *(layer.benchmark for layer in layers)]),
        "training": _laid_over([layer.training for layer in layers]),
    }
    method = METHODS[method_name]
    specs = tuple(
        parse({**content, "seed": seed}, RunSpec, source)
        # Without training there is nothing for a second seed to change.
        for seed in (seeds if method.trains else seeds[:1])
    )
    return PlannedRow(block.model, row.id, row.label or method.label, specs)


def _laid_over(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mappings laid over each other, the later ones winning, key by key at every depth.

    A mapping whose `name` says that it is another thing (another protocol) replaces the one below it.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            if (
                isinstance(value, Mapping)
                and isinstance(below, Mapping)
                and value.get("name", below.get("name")) == below.get("name")
            ):
                result[key] = _laid_over([below, value])
            else:
                result[key] = value
    return result


def _differing(rows: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
    """Spec keys in which rows differ, seeds apart: for each key the value of every row."""
    flat = {row.id: flatten(row.specs[0].model_dump(mode="json")) for row in rows}
    keys = sorted({key for values in flat.values() for key in values} - {"seed"})
    by_key = {key: {row: values.get(key) for row, values in flat.items()} for key in keys}
    return {key: values for key, values in by_key.items() if len({repr(v) for v in values.values()}) > 1}
