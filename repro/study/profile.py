"""How big a reproduction is: one YAML file under `experiments/profiles/` each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from repro.config import ConfigError, Frozen, load_named, names_in, one_of, parse
from repro.paths import EXPERIMENTS
from repro.study.execution import Execution
from repro.study.settings import Settings
from repro.study.slurm.settings import Cluster


class FamilyProfile(Settings):
    """What a profile changes in one benchmark family, by settings that are laid over the experiment's own.

    Attributes:
        model: the stand-in that replaces an experiment's own models and collapses its blocks into one; None
            keeps them.
        execution: settings of the profile's `execution` that differ in this family.
        local_data: settings that are laid over these where a folder of data is at hand.
    """

    model: str | None = None
    execution: dict[str, Any] = {}
    local_data: Settings = Settings()


class Profile(Frozen):
    """A size of reproduction.

    Attributes:
        purpose, cost: a few words each, for the README and `repro --help`.
        watermark: printed over every table of this profile, where its numbers mean nothing.
        seeds: of every trained row.
        cluster: what a run asks of a cluster.
    """

    name: str
    purpose: str
    cost: str
    watermark: str | None = None
    seeds: tuple[int, ...] = Field(min_length=1)
    families: dict[str, FamilyProfile]
    execution: Execution = Execution()
    cluster: Cluster = Cluster()

    def family(self, name: str) -> FamilyProfile:
        """This profile's part for a benchmark family.

        Raises:
            ConfigError: it has none.
        """
        if name not in self.families:
            raise ConfigError(f"profile {self.name}: {one_of('benchmark family', name, self.families)}")
        return self.families[name]

    def execution_for(self, family: str) -> Execution:
        """How runs of a family are executed."""
        content = self.execution.model_dump() | self.family(family).execution
        return parse(content, Execution, f"profile {self.name}: families.{family}.execution")


def list_profiles(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all profiles."""
    return names_in(experiments / "profiles")


def load_profile(name: str, experiments: Path = EXPERIMENTS) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: there is no such profile, or its file is wrong.
    """
    return load_named("profile", name, experiments / "profiles", Profile)
