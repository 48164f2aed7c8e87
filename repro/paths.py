"""The project's folders.

`repro/` is next to `experiments/` and `results/` in the project's root. REPRO_EXPERIMENTS_DIR and
REPRO_RESULTS_DIR name other folders, for an installed copy or to leave these two untouched.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EXPERIMENTS = Path(os.environ.get("REPRO_EXPERIMENTS_DIR", ROOT / "experiments"))
RESULTS = Path(os.environ.get("REPRO_RESULTS_DIR", ROOT / "results"))

# Committed runs and the tables and figures made from them, laid out like any results folder.
REFERENCE = ROOT / "results" / "reference"

# The paper's own numbers and statements, which no run of this project changes.
PAPER = ROOT / "results" / "paper"
