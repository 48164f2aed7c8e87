"""Where the project keeps what it reads and what it writes.

The code lies beside `experiments/` and `results/`, so the folder above the package is the project's root. A
copy that is installed without them, or a run that must not touch them, points elsewhere through two
environment variables.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EXPERIMENTS = Path(os.environ.get("REPRO_EXPERIMENTS_DIR", ROOT / "experiments"))
RESULTS = Path(os.environ.get("REPRO_RESULTS_DIR", ROOT / "results"))

# Committed runs and what is rendered from them: a results folder like any other, which
# REPRO_RESULTS_DIR may name.
REFERENCE = ROOT / "results" / "reference"

# What the paper prints and states, which no run of this project changes.
PAPER = ROOT / "results" / "paper"
