"""`repro`: plan, run, inspect, re-score and render the experiments of the paper.

Verbs import what they need when they are called, so that `--help` and `plan` answer without loading torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from repro.cli.parser import build_parser
from repro.config import ConfigError
from repro.files import describe_fault, storage_fault
from repro.runs.interruption import on_stop_signal, stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Exit status: 0 done, 1 something failed, 2 a wrong request or a disk that takes nothing, 130 interrupted.
    """
    # Read by OpenMP when torch is loaded. Its threads spin while they wait for each other, which takes the
    # core from the one waited for as soon as any other program runs: two threads on two busy cores took 2.3 s
    # where 0.25 s do. With a shorter spin nothing is lost on an idle machine (0.13 s either way).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    options = build_parser().parse_args(arguments)
    try:
        with on_stop_signal(stop):
            return int(options.verb(options))
    except ConfigError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):  # `Interrupted`, and what Lightning makes of the one
        print("repro: interrupted; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        fault = storage_fault(error)
        if fault is None:  # a mistake of this program
            raise
        print(f"repro: {describe_fault(fault, error.filename)}", file=sys.stderr)
        return 2
