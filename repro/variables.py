"""The environment variables REPRO_*, and what each may be."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

from repro.config import ConfigError
from repro.kernel_variable import KERNEL, kernel

DATA, EXPERIMENTS, RESULTS = "REPRO_DATA_DIR", "REPRO_EXPERIMENTS_DIR", "REPRO_RESULTS_DIR"

VARIABLES = (DATA, EXPERIMENTS, RESULTS, KERNEL)

_ALLOWED = "unset it, or set it to the path of a folder"


def check() -> list[str]:
    """Check every variable that is set, and return a line for each that nothing reads.

    A missing data folder passes, since only runs need one; see `data_folder`.

    Raises:
        ConfigError: a value is not possible.
    """
    for name, exists in ((DATA, False), (EXPERIMENTS, True), (RESULTS, False)):
        folder(name, exists=exists)
    try:
        kernel()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return [
        f"{name} is set, but nothing reads it{_did_you_mean(name)}"
        for name in sorted(os.environ)
        if name.startswith("REPRO_") and name not in VARIABLES
    ]


def folder(name: str, *, exists: bool) -> Path | None:
    """The absolute path of the folder that a variable names, None if it is not set.

    Args:
        exists: whether it must exist; otherwise it can be made.

    Raises:
        ConfigError: it names no folder.
    """
    value = os.environ.get(name)
    if value is None:
        return None
    if not value.strip():
        raise ConfigError(f"{name} is {value!r}; {_ALLOWED}")
    if value.startswith("~"):
        raise ConfigError(f"{name} is {value!r}, and only a shell replaces ~; write the whole path")
    path = Path(os.path.abspath(value))
    try:
        if not stat.S_ISDIR(_nearest(path, exists=exists).stat().st_mode):
            raise ConfigError(f"{name} is {value!r}: not a folder; {_ALLOWED}")
    except OSError as error:
        raise ConfigError(f"{name} is {value!r}: {error.strerror}; {_ALLOWED}") from error
    return path


def data_folder() -> Path | None:
    """The folder of REPRO_DATA_DIR, None if it is not set.

    Raises:
        ConfigError: it does not exist, or cannot be read.
    """
    path = folder(DATA, exists=True)
    if path is not None and not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{DATA} is {os.environ[DATA]!r}: it cannot be read; {_ALLOWED}")
    return path


def _nearest(path: Path, *, exists: bool) -> Path:
    """The path, or, if it need not exist, the nearest existing folder above it. Raises OSError."""
    try:
        path.lstat()
    except FileNotFoundError:
        if exists:
            raise
        return _nearest(path.parent, exists=False)
    return path


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, VARIABLES, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(VARIABLES)}"
