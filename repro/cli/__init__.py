"""`repro`: plan, run, inspect, re-score and render the experiments of the paper.

Verbs import their modules when called, so that `--help` and `plan` respond without loading torch.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Exit status: 0 success, 1 something failed, 2 invalid request or unusable disk, 130 interrupted.
    """
    # Read by OpenMP when torch is loaded. OpenMP threads spin while waiting for each other, which blocks the
    # core for the thread they wait for if another program runs: two threads on two busy cores took 2.3 s
    # instead of 0.25 s. A shorter spin costs nothing on an idle machine (0.13 s either way).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Read by torch at its first tensor: pages of 2 MB for tensors that are larger, where Linux lets programs
    # ask for them. See `repro.runs.allocator` for what pages of 4 kB cost.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "?" for what an ASCII terminal or pipe cannot show
    try:
        try:
            return _execute(arguments)
        finally:
            # What is printed and not yet written would fail after the end, where nobody can answer.
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:  # closed by whoever started this
                    stream.flush()
    except KeyboardInterrupt:  # while the packages were imported
        return 130
    except BrokenPipeError:  # the reader (head, less) was closed
        _write_no_more()
        return 0


def _execute(arguments: Sequence[str] | None) -> int:
    from repro.cli.parser import build_parser
    from repro.config import ConfigError
    from repro.files import describe_fault, storage_fault
    from repro.runs.interruption import on_stop_signal, stop
    from repro.text import lines

    options = build_parser().parse_args(arguments)
    try:
        with on_stop_signal(stop):
            _check_machine(getattr(options, "reads_experiments", True))
            status = int(options.verb(options))
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except ConfigError as error:
        print(f"repro: {lines(str(error))}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):  # `Interrupted`, and Lightning's own exit on Ctrl-C
        print("repro: interrupted; run the same command to continue, finished runs are kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        fault = storage_fault(error)
        if fault is not None:
            line = describe_fault(fault, error.filename)
        elif error.filename is not None:  # a folder that is no folder, a loop of links
            line = f"{error.filename}: {error.strerror}"
        else:  # a bug
            raise
        print(f"repro: {line}", file=sys.stderr)
        return 2


def _check_machine(reads_experiments: bool) -> None:
    """Check the environment's variables and folders, before any verb loads anything."""
    from repro import variables

    for hint in variables.check():
        print(f"repro: {hint}", file=sys.stderr)
    if reads_experiments:
        from repro.paths import check_experiments

        check_experiments()


def _write_no_more() -> None:
    """Let the interpreter's last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
