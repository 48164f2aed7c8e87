"""The project's folders.

`repro/` is next to `experiments/` and `results/` in the project's root. REPRO_EXPERIMENTS_DIR and
REPRO_RESULTS_DIR name other folders, for an installed copy or to leave these two untouched.
"""

from __future__ import annotations

from pathlib import Path

from repro import variables
from repro.config import ConfigError

ROOT = Path(__file__).resolve().parent.parent

EXPERIMENTS = variables.folder(variables.EXPERIMENTS, exists=True) or ROOT / "experiments"
RESULTS = variables.folder(variables.RESULTS, exists=False) or ROOT / "results"

# Committed runs and the tables and figures made from them, laid out like any results folder.
REFERENCE = ROOT / "results" / "reference"

# The paper's own numbers and statements, which no run of this project changes.
PAPER = ROOT / "results" / "paper"


def check_experiments() -> None:
    """Check that there are experiments, which an installed copy does not bring along.

    Raises:
        ConfigError: there is no such folder.
    """
    if not EXPERIMENTS.is_dir():
        raise ConfigError(
            f"there is no folder {EXPERIMENTS}; set {variables.EXPERIMENTS} to a checkout's experiments"
        )
