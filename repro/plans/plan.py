"""An experiment under a profile: its rows, cells and runs, and whether its rows may be compared.

Settings are merged in this order, later ones override: experiment defaults, preset (for the model), profile
(for the family), block, row, so that what an experiment says of its rows holds under every profile, and last
the profile's learning rates; within each, settings of one task override those of all tasks. The result is a
`RunSpec` per row and seed (and per task, where tasks are trained separately), checked before anything runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

from repro.benchmarks.base import benchmark_families
from repro.config import ConfigError, one_of, parse, partial_problems
from repro.methods.base import Method
from repro.methods.registry import METHODS
from repro.models.shapes import base_parameters, linear_shapes
from repro.models.spec import load_model_spec
from repro.plans.execution import Execution, check_execution
from repro.plans.experiment import Block, Experiment, Row
from repro.plans.profile import Profile, Seeds
from repro.plans.settings import Settings, deep_merge, load_named_preset, load_preset
from repro.plans.spec import InitFrom, RunSpec, flatten


@dataclass(frozen=True)
class PlannedRow:
    """A row under a profile: one spec per seed, and per task where tasks are trained separately.

    Attributes:
        curve: id of the varying row in the file of which this is one point; None for other rows.
        extra: see `repro.plans.experiment.Row`.
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
    def hashes(self) -> tuple[str, ...]:
        """Of its runs; rows of other experiments that share them have the same."""
        return tuple(spec.hash for spec in self.specs)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that this row fills, with their headings."""
        return {name: heading for spec in self.specs for name, heading in spec.benchmark.columns.items()}

    @cached_property
    def trainable_parameters(self) -> int:
        """By formula from the model's declared shapes; the runner asserts that the built model agrees."""
        spec = self.specs[0]
        shapes = linear_shapes(spec.model.architecture, spec.adapted_modules)
        return spec.method.trainable_parameters(shapes, base_parameters(spec.model.architecture))

    @property
    def trainable_percent(self) -> float:
        """Percent of base plus adapter, as in the paper's column; of the base alone if nothing is added."""
        base = base_parameters(self.specs[0].model.architecture)
        trained = self.trainable_parameters
        return 100 * trained / max(base, trained if trained == base else base + trained)


@dataclass(frozen=True)
class Cell:
    """One number of a table: a column of a row, over the row's runs."""

    row: PlannedRow
    column: str


@dataclass(frozen=True)
class Plan:
    """An experiment under a profile.

    Attributes:
        local_data: whether the profile's settings for local data are applied.
    """

    experiment: Experiment
    profile: Profile
    rows: tuple[PlannedRow, ...]
    local_data: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """The experiment's columns with their headings, including those that the profile leaves empty."""
        headings = benchmark_families()[self.experiment.family].headings()
        tasks = self.experiment.defaults.benchmark.get("tasks", headings)
        return {name: heading for name, heading in headings.items() if name in tasks}

    @property
    def cells(self) -> list[Cell]:
        return [Cell(row, column) for row in self.rows for column in row.columns]

    @property
    def runs(self) -> dict[str, RunSpec]:
        """All runs behind the cells, by hash; a run comes after the one that it starts from."""
        needed: dict[str, RunSpec] = {}
        for spec in (spec for row in self.rows for spec in row.specs):
            needed |= {run.hash: run for run in (*spec.needed, spec)}
        return needed

    def run(self, name: str) -> RunSpec:
        """The run with this hash, or with this index (from 0) in `runs`.

        Raises:
            ConfigError: there is no such run.
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
        """This plan with only the rows whose id matches one of the patterns (`lora*`).

        Raises:
            ConfigError: a pattern matches no row.
        """
        return self._kept("row", [row.id for row in self.rows], patterns)

    def only_models(self, names: Sequence[str]) -> Plan:
        """This plan with only the rows of these models; a name may be a pattern (`llama*`).

        Raises:
            ConfigError: a name matches no model of the plan.
        """
        return self._kept("model", [row.block for row in self.rows], names)

    def only_ungated(self) -> Plan:
        """This plan with only the rows of models that the hub gives to anybody.

        Raises:
            ConfigError: every model of the plan is gated.
        """
        kept = tuple(row for row in self.rows if not row.specs[0].model.gated)
        if not kept:
            gated = ", ".join(dict.fromkeys(row.block for row in self.rows))
            raise ConfigError(f"{self.experiment.name}: every selected model is gated ({gated})")
        return replace(self, rows=kept)

    def _kept(self, kind: str, names: Sequence[str], patterns: Sequence[str]) -> Plan:
        """This plan with only the rows whose name, one for each row, matches one of the patterns."""
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                problem = f"{self.experiment.name}: {one_of(kind, pattern, dict.fromkeys(names))}"
                if kind == "row" and self.profile.part(self.experiment.name).rows:
                    problem += f"; profile {self.profile.name} leaves out the experiment's other rows"
                raise ConfigError(problem)
        kept = (
            row
            for row, name in zip(self.rows, names, strict=True)
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        )
        return replace(self, rows=tuple(kept))

    def execution(self, spec: RunSpec) -> Execution:
        """How a run is executed here."""
        return self.profile.execution_for(self.experiment.family, spec.model.name)

    def footnotes(self) -> list[str]:
        """The footnotes whose pattern matches a key in which rows do differ."""
        differing = {key for rows in self._blocks().values() for key in _differing(rows)}
        notes = self.experiment.footnotes
        return [
            text for pattern, text in notes.items() if any(fnmatchcase(key, pattern) for key in differing)
        ]

    def check_fairness(self) -> None:
        """Refuse rows that differ in keys covered by neither `axes` nor `footnotes`.

        Raises:
            ConfigError: one line for each such difference.
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

    def check_execution(self) -> None:
        """Refuse what cannot be executed in the profile's way.

        Raises:
            ConfigError: see `repro.plans.execution.check_execution`.
        """
        for row in self.rows:
            check_execution(row.specs[0], self.execution(row.specs[0]))

    def _blocks(self) -> dict[str, list[PlannedRow]]:
        blocks: dict[str, list[PlannedRow]] = {}
        for row in self.rows:
            blocks.setdefault(row.block, []).append(row)
        return blocks


def expand(
    experiment: Experiment,
    profile: Profile,
    seeds: Sequence[int] | None = None,
    *,
    preset: str | None = None,
    local_data: bool | None = None,
    data: str | None = None,
) -> Plan:
    """Expand an experiment under a profile and check it.

    Args:
        seeds: replace the profile's seeds, of all rows and of single ones.
        preset: replaces the experiment's preset.
        local_data: whether to apply the profile's settings for local data; None applies them if
            REPRO_DATA_DIR is set.
        data: the source of all data, whatever the profile says: `local` or another that the family has;
            `profile` for the profile's own, whether REPRO_DATA_DIR is set or not. It replaces `local_data`.

    Raises:
        ConfigError: a setting is invalid, or rows differ where they may not.
    """
    if data is not None:
        local_data = data == "local"
    if local_data is None:
        local_data = bool(os.environ.get("REPRO_DATA_DIR"))
    given = None if seeds is None else parse({"seeds": tuple(seeds)}, Seeds, "--seeds").seeds
    family, part = profile.family(experiment.family), profile.part(experiment.name)
    if preset is not None:
        _check_preset(preset, experiment, profile)
        experiment = experiment.model_copy(update={"preset": preset})
    _check_names(experiment)
    if family.model is None:
        blocks = experiment.blocks
    else:
        blocks = (Block(model=family.model, **dict(experiment.stand_in)),)
    rows = tuple(
        _planned_row(
            experiment,
            profile,
            block,
            point,
            seeds=given or part.seeds_of(point.id) or profile.seeds,
            curve=row.id if row.vary else None,
            rates=family.rates(row),
            local_data=local_data,
            source=None if data == "profile" else data,
        )
        for block in blocks
        for row in block.rows
        for point in row.points()
    )
    planned = Plan(experiment, profile, rows, local_data)
    planned.only(tuple(part.seeds))  # refuses a pattern that matches no row
    if part.rows:
        planned = planned.only(part.rows)
    planned.check_fairness()
    planned.check_execution()
    return planned


def _check_preset(preset: str, experiment: Experiment, profile: Profile) -> None:
    """Refuse a preset that somebody asks for and that changes nothing."""
    load_named_preset(preset)
    replaced = profile.family(experiment.family).model
    if replaced is not None:
        raise ConfigError(
            f"--preset {preset} has no effect: profile {profile.name} replaces the models of "
            f"{experiment.name} by {replaced}; leave it out, or take a profile with the paper's models"
        )
    if all(row.preset for block in experiment.blocks for row in block.rows):
        raise ConfigError(f"--preset {preset} has no effect: every row of {experiment.name} has its own")


def _check_names(experiment: Experiment) -> None:
    """Refuse names that there are not, also in rows that the profile replaces by others."""
    groups = [("stand_in", experiment.stand_in.rows), *((b.model, b.rows) for b in experiment.blocks)]
    for block in experiment.blocks:
        load_model_spec(block.model).for_family(experiment.family)
    for preset in {experiment.preset, *(row.preset for _, rows in groups for row in rows)} - {None}:
        published = load_named_preset(str(preset)).models
        for model in {block.model for block in experiment.blocks} & set(published):
            lines = published[model].problems(experiment.family)
            if lines:
                raise ConfigError("\n".join(f"preset {preset}: models.{model}.{line}" for line in lines))
    for place, rows in groups:
        for row in rows:
            source = f"experiments/{experiment.name}.yaml, {place}, row {row.id}"
            name = row.method["name"]
            if name not in METHODS:
                raise ConfigError(f"{source}: method.name: {one_of('method', name, METHODS)}")
            lines = [f"method: {name}: {line}" for line in partial_problems(row.method, METHODS[name])]
            if row.init_from is not None:
                found = partial_problems(row.init_from.lora, METHODS["lora"], fixed=("name",))
                lines += [f"init_from.lora.{line}" for line in found]
            if lines:
                raise ConfigError("\n".join(f"{source}: {line}" for line in lines))


def _label(method: Method) -> str:
    """The method's label with its rank, as the paper prints it: `LoRA (r=32)`."""
    rank = method.printed_rank
    return method.label if rank is None else f"{method.label} (r={rank})"


def _planned_row(
    experiment: Experiment,
    profile: Profile,
    block: Block,
    row: Row,
    *,
    seeds: Sequence[int],
    curve: str | None,
    rates: Settings,
    local_data: bool,
    source: str | None,
) -> PlannedRow:
    family = profile.family(experiment.family)
    where = f"experiments/{experiment.name}.yaml, row {row.id}, profile {profile.name}"
    data = Settings() if source is None else Settings(benchmark={"source": source})
    method = METHODS[row.method["name"]]
    preset_name = row.preset or experiment.preset
    preset = load_preset(preset_name, block.model) if preset_name and family.model is None else Settings()
    model = load_model_spec(block.model).for_family(experiment.family)
    quantization = profile.model(block.model).quantization
    if quantization is not None:
        model = model.model_copy(update={"quantization": quantization})

    def spec(task: str | None, seed: int, method: Mapping[str, Any]) -> RunSpec:
        local = family.local_data if local_data else Settings()
        parts: list[Settings] = [experiment.defaults, preset, family, local, block, row, rates, data]
        layers = [layer for part in parts for layer in part.layers(task)]
        alone = {"tasks": [task]} if task else {}
        content = {
            "model": model,
            "method": deep_merge([*(layer.methods.get(method["name"], {}) for layer in layers), method]),
            "benchmark": deep_merge(
                [{"family": experiment.family}, *(layer.benchmark for layer in layers), alone]
            ),
            "training": deep_merge([layer.training for layer in layers]),
            "seed": seed,
            "targets": row.targets,
        }
        return parse(content, RunSpec, where)

    def started(task: str | None, seed: int) -> RunSpec:
        """The spec of a run, including the run it starts from."""
        own, rule = spec(task, seed, row.method), row.init_from
        if rule is None or rule.task not in tasks or task not in rule.tasks:
            return own
        reading: Literal["adapter", "merged"] = "adapter" if rule.reading == "own" else "merged"
        first = row.method if rule.reading == "own" else {"name": "lora"} | rule.lora
        return own.model_copy(
            update={"init_from": InitFrom(reading=reading, run=spec(rule.task, seed, first))}
        )

    # Without training all seeds give the same result.
    used = seeds if method.trains else seeds[:1]
    tasks: Sequence[str | None] = [None]
    if benchmark_families()[experiment.family].run_per_task:
        tasks = list(spec(None, seeds[0], row.method).benchmark.columns)
    specs = tuple(started(task, seed) for task in tasks for seed in used)
    label = row.label or _label(specs[0].method)
    return PlannedRow(block.model, row.id, label, specs, curve, row.extra)


# The seeds are the same for all rows, and the version follows from the other settings.
_SAME_FOR_ALL = re.compile(r"^(init_from\.run\.)?(seed|version)$")


def _differing(rows: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:
    """Spec keys in which rows differ on the same task, apart from seeds: each key with every row's value."""
    differing: dict[str, dict[str, Any]] = {}
    tasks = dict.fromkeys(tuple(spec.benchmark.columns) for row in rows for spec in row.specs)
    for task in tasks:
        first = {
            row.id: next((spec for spec in row.specs if tuple(spec.benchmark.columns) == task), None)
            for row in rows
        }
        flat = {id: flatten(spec.model_dump(mode="json")) for id, spec in first.items() if spec is not None}
        keys = sorted({key for values in flat.values() for key in values if not _SAME_FOR_ALL.search(key)})
        for key in keys:
            values = {row: values.get(key) for row, values in flat.items()}
            if len({repr(value) for value in values.values()}) > 1:
                differing.setdefault(key, values)
    return differing
