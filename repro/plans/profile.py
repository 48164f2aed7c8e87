"""Profiles, the scales at which experiments run: one YAML file each under `experiments/profiles/`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from repro.benchmarks.base import benchmark_families
from repro.config import (
    ConfigError,
    ExperimentName,
    Frozen,
    Line,
    Name,
    Seed,
    differ,
    load_named,
    names_in,
    one_of,
    parse,
)
from repro.methods.registry import METHODS
from repro.models.spec import list_models
from repro.paths import EXPERIMENTS
from repro.plans.cluster import Cluster
from repro.plans.execution import Execution
from repro.plans.experiment import LEARNING_RATE, Row, list_experiments
from repro.plans.settings import Settings, TaskSettings

UniqueSeeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000), AfterValidator(differ)]


class Seeds(Frozen):
    """Seeds of every trained row, each of them once."""

    seeds: UniqueSeeds


Rate = Annotated[float, Field(gt=0)]
_OTHER_TASKS = "*"


class FamilyProfile(Settings):
    """Settings of a profile for one benchmark family; they override the experiment's.

    Attributes:
        model: stand-in model that replaces all models of an experiment; None keeps the experiment's models.
        execution: overrides of the profile's `execution` for this family.
        learning_rates: by method, as the family's search found them at this scale: one for all tasks, or by
            task, with "*" for the others. They replace those of an experiment's rows, unless a row varies the
            rate.
        local_data: settings that override these if there is a local data folder.
    """

    model: Name | None = None
    execution: dict[str, Any] = {}
    learning_rates: dict[Name, Rate | dict[Line, Rate]] = {}
    local_data: Settings = Settings()

    def rates(self, row: Row) -> Settings:
        """The rates for a row of an experiment; none where the row has its own."""
        varies = any(LEARNING_RATE in axis for axis in row.vary)
        return Settings() if varies else self._rates(row.method["name"])

    def problems(self, family: str) -> list[str]:
        lines = super().problems(family)
        for name in self.learning_rates:
            if name not in METHODS:
                lines.append(f"learning_rates: {one_of('method', name, METHODS)}")
            found = self._rates(name).problems(family)
            lines += [f"learning_rates.{name}: {line.removeprefix('tasks: ')}" for line in found]
        return lines

    def _rates(self, method: str) -> Settings:
        rates = self.learning_rates.get(method, {})
        by_task = dict(rates) if isinstance(rates, dict) else {_OTHER_TASKS: rates}
        general = by_task.pop(_OTHER_TASKS, None)
        return Settings(
            training={} if general is None else {"learning_rate": general},
            tasks={task: TaskSettings(training={"learning_rate": rate}) for task, rate in by_task.items()},
        )


class ExperimentProfile(Frozen):
    """What a profile runs of one experiment.

    Attributes:
        rows: patterns of the rows that it runs; none runs all.
        seeds: by pattern of a row, instead of the profile's.
    """

    rows: tuple[Line, ...] = ()
    seeds: dict[Line, UniqueSeeds] = {}

    def seeds_of(self, row: str) -> tuple[int, ...] | None:
        """Seeds of a row by the first pattern that matches its id; None where none does."""
        return next((seeds for pattern, seeds in self.seeds.items() if fnmatchcase(row, pattern)), None)


class ModelProfile(Frozen):
    """Settings of a profile for one model.

    Attributes:
        quantization: of the model's weights, see `repro.models.spec`. Part of the run's hash.
        execution, cluster: overrides of the profile's sections of the same name.
    """

    quantization: Literal["nf4"] | None = None
    execution: dict[str, Any] = {}
    cluster: dict[str, Any] = {}


class Profile(Seeds):
    """The scale of a reproduction: models, amount of data, seeds, and how runs are executed.

    Attributes:
        purpose, cost: a few words each, for the README and the tables' notes.
        watermark: printed above every table of this profile if its numbers are meaningless.
        cluster: SLURM resources of a run.
        models: overrides for single models.
        experiments: rows and seeds of single experiments, where they are not all rows at `seeds`.
    """

    name: Name
    purpose: Line
    cost: Line
    watermark: Line | None = None
    families: dict[str, FamilyProfile] = Field(min_length=1)
    execution: Execution = Execution()
    cluster: Cluster = Cluster()
    models: dict[Name, ModelProfile] = {}
    experiments: dict[ExperimentName, ExperimentProfile] = {}

    @model_validator(mode="after")
    def _settings_fit(self) -> Profile:
        families, models, lines = benchmark_families(), list_models(), []
        for name, family in self.families.items():
            if name not in families:
                lines.append(f"families: {one_of('benchmark family', name, families)}")
                continue
            lines += [f"families.{name}.{line}" for line in family.problems(name)]
            lines += [f"families.{name}.local_data.{line}" for line in family.local_data.problems(name)]
            if family.model is not None and family.model not in models:
                lines.append(f"families.{name}.model: {one_of('model', family.model, models)}")
        lines += [f"models: {one_of('model', name, models)}" for name in self.models if name not in models]
        known = list_experiments()
        lines += [
            f"experiments: {one_of('experiment', e, known)}" for e in self.experiments if e not in known
        ]
        if lines:
            raise ValueError("\n".join(lines))
        for model in self.models:
            self.cluster_for(model)
        for name in self.families:
            for model in [*self.models, ""]:
                self.execution_for(name, model)
        return self

    def family(self, name: str) -> FamilyProfile:
        """This profile's settings for a benchmark family.

        Raises:
            ConfigError: its file has no section for it. Only experiments of the family need one.
        """
        if name not in self.families:
            raise ConfigError(
                f"profile {self.name} has no section for the benchmark family {name!r} (it has: "
                f"{', '.join(sorted(self.families))}); add families.{name} to its file"
            )
        return self.families[name]

    def part(self, experiment: str) -> ExperimentProfile:
        """What this profile runs of an experiment."""
        return self.experiments.get(experiment, ExperimentProfile())

    def model(self, name: str) -> ModelProfile:
        """This profile's settings for a model."""
        return self.models.get(name, ModelProfile())

    def execution_for(self, family: str, model: str) -> Execution:
        """Execution settings of a family's runs on a model."""
        source = f"profile {self.name}: families.{family}.execution, models.{model}.execution"
        content = self.execution.model_dump() | self.family(family).execution | self.model(model).execution
        return parse(content, Execution, source)

    def cluster_for(self, model: str) -> Cluster:
        """SLURM resources of a run on a model."""
        content = self.cluster.model_dump() | self.model(model).cluster
        return parse(content, Cluster, f"profile {self.name}: models.{model}.cluster")


def list_profiles(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all profiles."""
    return names_in(experiments / "profiles")


def load_profile(name: str, experiments: Path = EXPERIMENTS) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: there is no such profile, or its file is invalid.
    """
    return load_named("profile", name, experiments / "profiles", Profile)
