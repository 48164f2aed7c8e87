"""Settings to be laid over others: what experiments, presets and profiles are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.config import ConfigError, Frozen, load_named, names_in, one_of
from repro.paths import EXPERIMENTS


class TaskSettings(Frozen):
    """Settings of some runs, of the benchmark, of the training, and of methods by their name."""

    benchmark: dict[str, Any] = {}
    training: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}


class Settings(TaskSettings):
    """Settings, and for single tasks others that are laid over them."""

    tasks: dict[str, TaskSettings] = {}

    def layers(self, task: str | None) -> list[TaskSettings]:
        """These settings and those of the task, in the order in which they are laid."""
        return [self, self.tasks[task]] if task in self.tasks else [self]


class Preset(Frozen):
    """Published settings of one source, by model."""

    models: dict[str, Settings]


def list_presets(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all presets."""
    return names_in(experiments / "presets")


def load_preset(name: str, model: str, experiments: Path = EXPERIMENTS) -> Settings:
    """What a preset says about a model.

    Raises:
        ConfigError: there is no such preset, or it says nothing about the model.
    """
    folder = experiments / "presets"
    preset = load_named("preset", name, folder, Preset)
    if model not in preset.models:
        raise ConfigError(f"{folder / name}.yaml: {one_of('model of this preset', model, preset.models)}")
    return preset.models[model]


def deep_merge(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
                result[key] = deep_merge([below, value])
            else:
                result[key] = value
    return result
