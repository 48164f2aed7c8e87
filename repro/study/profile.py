"""How big a reproduction is: one YAML file under `experiments/profiles/` each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from repro.config import ConfigError, Frozen, load_yaml, one_of
from repro.paths import EXPERIMENTS
from repro.study.execution import Execution


class FamilyProfile(Frozen):
    """What a profile changes in one benchmark family.

    Attributes:
        model: the stand-in that replaces an experiment's own models and collapses its blocks into one; None
            keeps them.
        benchmark: settings laid over the experiment's own, for instance sizes, source and protocol.
        training: the same for the training.
        methods: the same for a method, by its name.
    """

    model: str | None = None
    benchmark: dict[str, Any] = {}
    training: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}


class Profile(Frozen):
    """A size of reproduction.

    Attributes:
        purpose, cost: a few words each, for the README and `repro --help`.
        watermark: printed over every table of this profile, where its numbers mean nothing.
        seeds: of every trained row.
    """

    name: str
    purpose: str
    cost: str
    watermark: str | None = None
    seeds: tuple[int, ...] = Field(min_length=1)
    families: dict[str, FamilyProfile]
    execution: Execution = Execution()

    def family(self, name: str) -> FamilyProfile:
        """This profile's part for a benchmark family.

        Raises:
            ConfigError: it has none.
        """
        if name not in self.families:
            raise ConfigError(f"profile {self.name}: {one_of('benchmark family', name, self.families)}")
        return self.families[name]


def list_profiles(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all profiles."""
    return sorted(path.stem for path in (experiments / "profiles").glob("*.yaml"))


def load_profile(name: str, experiments: Path = EXPERIMENTS) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: there is no such profile, or its file is wrong.
    """
    if name not in list_profiles(experiments):
        raise ConfigError(one_of("profile", name, list_profiles(experiments)))
    return load_yaml(experiments / "profiles" / f"{name}.yaml", Profile)
