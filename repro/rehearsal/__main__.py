"""The part of `repro rehearse` that sees the tiny world (see `World`), a process of its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from repro.quiet import quiet_libraries
from repro.rehearsal.inside import rehearse

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("hub", type=Path)
    parser.add_argument("profile")
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--submit", action="store_true")
    parser.add_argument("--rows", default="")
    parser.add_argument("--models", default="")
    parser.add_argument("--ungated", action="store_true")
    with quiet_libraries():
        sys.exit(rehearse(parser.parse_args()))
