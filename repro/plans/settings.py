"""Settings that override each other: the building blocks of experiments, presets and profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from repro.benchmarks.base import benchmark_families
from repro.config import ConfigError, Frozen, Name, load_named, names_in, one_of, unknown_keys
from repro.methods.registry import METHODS
from repro.paths import EXPERIMENTS
from repro.training.spec import TrainingSpec


class TaskSettings(Frozen):
    """Settings of the benchmark, of training, and of methods by name."""

    benchmark: dict[str, Any] = {}
    training: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _is_for_somebody(self) -> TaskSettings:
        lines = [f"training.{line}" for line in unknown_keys(self.training, TrainingSpec)]
        for name, settings in self.methods.items():
            if name in METHODS:
                found = unknown_keys(settings, METHODS[name], hidden=("name",))
                lines += [f"methods.{name}.{line}" for line in found]
            else:
                lines.append(f"methods: {one_of('method', name, METHODS)}")
        if lines:
            raise ValueError("\n".join(lines))
        return self


class Settings(TaskSettings):
    """Settings for all tasks, and overrides for single tasks."""

    tasks: dict[str, TaskSettings] = {}

    def layers(self, task: str | None) -> list[TaskSettings]:
        """These settings, then the task's overrides if it has any."""
        return [self, self.tasks[task]] if task in self.tasks else [self]

    def check_family(self, family: str) -> None:
        """Refuse settings that a benchmark family does not have, and those of a task that it does not train.

        Raises:
            ValueError: one line for each.
        """
        benchmark = benchmark_families()[family]
        lines = []
        for place, settings in [("", self), *((f"tasks.{name}.", task) for name, task in self.tasks.items())]:
            found = unknown_keys(settings.benchmark, benchmark, hidden=("family",))
            lines += [f"{place}benchmark.{line}" for line in found]
        trained = benchmark.headings() if benchmark.run_per_task else {}
        if self.tasks and not trained:
            lines.append(
                f"tasks: {family} is trained on all of its tasks at once; write what is for all of them"
            )
        elif self.tasks:
            unknown = [name for name in self.tasks if name not in trained]
            lines += [f"tasks: {one_of(f'task of {family}', name, trained)}" for name in unknown]
        if lines:
            raise ValueError("\n".join(lines))


class Preset(Frozen):
    """The published settings of one source, by model."""

    models: dict[Name, Settings] = Field(min_length=1)


def list_presets(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all presets."""
    return names_in(experiments / "presets")


def load_preset(name: str, model: str, experiments: Path = EXPERIMENTS) -> Settings:
    """A preset's settings for a model.

    Raises:
        ConfigError: there is no such preset, or it has no settings for the model.
    """
    preset = load_named_preset(name, experiments)
    if model not in preset.models:
        path = experiments / "presets" / f"{name}.yaml"
        raise ConfigError(f"{path}: {one_of('model of this preset', model, preset.models)}")
    return preset.models[model]


def load_named_preset(name: str, experiments: Path = EXPERIMENTS) -> Preset:
    """A preset, for all of its models.

    Raises:
        ConfigError: there is no such preset, or its file is invalid.
    """
    return load_named("preset", name, experiments / "presets", Preset)


def deep_merge(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge nested mappings key by key; later ones override earlier ones.

    A mapping with another `name` (such as another protocol) replaces the earlier mapping as a whole.
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
                result[key] = deep_merge([below, value])
            else:
                result[key] = value
    return result
