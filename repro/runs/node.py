"""Which of the machines that work on one run this is."""

from __future__ import annotations

import os


def this_node() -> int:
    """This node's number, from 0: NODE_RANK, or inside a SLURM job SLURM's."""
    return int(os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID") or 0)
