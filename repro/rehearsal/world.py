"""The folder of a rehearsal, and the environment in which its processes see nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from repro import variables
from repro.paths import EXPERIMENTS
from repro.rehearsal.shrinking import shrink_experiments

# What would lead a process to other models, data or settings than those of the rehearsal.
_LEFT_OUT = (variables.DATA, "HF_ENDPOINT", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "HF_TOKEN_PATH")


class World:
    """The folder of a rehearsal: tiny experiments, the hub's cache, results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = folder / "huggingface" / "hub"

    def build(self, profile: str, *, accelerator: str) -> None:
        """Write the tiny experiments, in place of an earlier rehearsal: the code may have changed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shrink_experiments(EXPERIMENTS, self.folder / "experiments", profile, accelerator=accelerator)

    def environment(self, outside: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The variables of a process that works in this folder, without a network."""
        kept = {name: value for name, value in outside.items() if name not in _LEFT_OUT}
        return kept | {
            variables.EXPERIMENTS: str(self.folder / "experiments"),
            variables.RESULTS: str(self.folder / "results"),
            "HF_HOME": str(self.folder / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        }
