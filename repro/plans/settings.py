"""Settings that override each other: the building blocks of experiments, presets and profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from repro.benchmarks.base import benchmark_families
from repro.config import ConfigError, Frozen, Name, load_named, names_in, one_of, partial_problems
from repro.methods.registry import METHODS
from repro.paths import EXPERIMENTS
from repro.training.spec import TrainingSpec


class TaskSettings(Frozen):
    """Settings of the benchmark, of training, and of methods by name."""

    benchmark: dict[str, Any] = {}
    training: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}

    def problems(self, family: str) -> list[str]:
        """One line for each name that there is not, and for each value that does not fit, in this family."""
        lines = [
            f"benchmark.{line}"
            for line in partial_problems(self.benchmark, benchmark_families()[family], fixed=("family",))
        ]
        lines += [f"training.{line}" for line in partial_problems(self.training, TrainingSpec)]
        for name, settings in self.methods.items():
            if name in METHODS:
                found = partial_problems(settings, METHODS[name], fixed=("name",))
                lines += [f"methods.{name}.{line}" for line in found]
            else:
                lines.append(f"methods: {one_of('method', name, METHODS)}")
        return lines


class Settings(TaskSettings):
    """Settings for all tasks, and overrides for single tasks."""

    tasks: dict[str, TaskSettings] = {}

    def layers(self, task: str | None) -> list[TaskSettings]:
        """These settings, then the task's overrides if it has any."""
        return [self, self.tasks[task]] if task in self.tasks else [self]

    def problems(self, family: str) -> list[str]:
        lines = super().problems(family)
        benchmark = benchmark_families()[family]
        if self.tasks and not benchmark.run_per_task:
            return [
                *lines,
                f"tasks: {family} trains on all of its tasks at once; write what is for all of them",
            ]
        known = benchmark.headings()
        for name, settings in self.tasks.items():
            lines += [f"tasks.{name}.{line}" for line in settings.problems(family)]
            if name not in known:
                lines.append(f"tasks: {one_of(f'task of {family}', name, known)}")
        return lines


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
