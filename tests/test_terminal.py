"""What is printed fits the terminal or pipe that reads it, whatever is in names and results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.text import lines, one_line


def _repro(line: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell line with $REPRO, an empty results folder and nothing of this process's encoding."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))}
    own = {"REPRO": f"{sys.executable} -m repro.cli", "REPRO_RESULTS_DIR": str(tmp_path / "results")}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], env=kept | own | path | environment, capture_output=True
    )


ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}


@pytest.mark.parametrize("arguments", ["--help", "claims --profile smoke", "render table1 --profile smoke"])
def test_a_terminal_that_knows_ascii_alone_shows_the_rest(arguments: str, tmp_path: Path) -> None:
    done = _repro(f"$REPRO {arguments}", tmp_path, **ASCII)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and (b"?" in done.stdout or arguments == "--help")


@pytest.mark.parametrize("arguments", ["plan table1 --profile paper", "list", "--help", "run --help"])
def test_a_reader_that_has_seen_enough_is_no_error(arguments: str, tmp_path: Path) -> None:
    done = _repro(f"$REPRO {arguments} | true", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


MOVING = ["\x1b[31m", "\x1b]0;title\x07", "\r", "\x00", "\x9b1m", "\u202e", "\ud800"]


@pytest.mark.parametrize("closed", MOVING)
def test_text_moves_no_cursor(closed: str) -> None:
    for shown in (one_line(f"a{closed}b"), lines(f"a\n{closed}b")):
        assert all(character.isprintable() or character == "\n" for character in shown)
        shown.encode()
    assert lines("a\nb\tc") == "a\nb c"
