"""Settings that override each other: the building blocks of experiments, presets and profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.config import ConfigError, Frozen, load_named, names_in, one_of
from repro.paths import EXPERIMENTS


class TaskSettings(Frozen):
    """Settings of the benchmark, of training, and of methods by name."""

    benchmark: dict[str, Any] = {}
    training: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}


class Settings(TaskSettings):
    """Settings for all tasks, and overrides for single tasks."""

    tasks: dict[str, TaskSettings] = {}

    def layers(self, task: str | None) -> list[TaskSettings]:
        """These settings, then the task's overrides if it has any."""
        return [self, self.tasks[task]] if task in self.tasks else [self]


class Preset(Frozen):
    """The published settings of one source, by model."""

    models: dict[str, Settings]


def list_presets(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all presets."""
    return names_in(experiments / "presets")


def load_preset(name: str, model: str, experiments: Path = EXPERIMENTS) -> Settings:
    """A preset's settings for a model.

    Raises:
        ConfigError: there is no such preset, or it has no settings for the model.
    """
    folder = experiments / "presets"
    preset = load_named("preset", name, folder, Preset)
    if model not in preset.models:
        raise ConfigError(f"{folder / name}.yaml: {one_of('model of this preset', model, preset.models)}")
    return preset.models[model]


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
