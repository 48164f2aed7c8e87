"""Atomic file writes, and readable messages for full or read-only disks."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"

# Faults of the machine rather than of the run, and what the user can do about each.
_ROOM = "make room"
_ANOTHER = "make it writable, or set REPRO_RESULTS_DIR to a folder that is"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: _ANOTHER,
    errno.EACCES: _ANOTHER,
    errno.EPERM: _ANOTHER,
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network disk",
}


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` once it is complete and on disk.

    If the process is killed, `path` is unchanged and a partial file is left next to it (see
    `remove_partial`).

    Raises:
        OSError: it could not be written; the error names `path`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since a rename across disks is a copy and not atomic.
        # The umask says who may read and write it: files of `tempfile` would be the user's alone.
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}{_PARTIAL}"
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        fault = storage_fault(error)
        if fault is not None:
            raise OSError(fault, os.strerror(fault), str(path)) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: it could not be written; the error names `path`.
    """
    with whole_file(path) as file:
        file.write(content)


def remove_partial(folder: Path) -> None:
    """Remove partial files of killed processes, from a folder that no other process writes to."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the permissions of the umask: safetensors writes for their owner alone."""
    mask = os.umask(0o077)  # it can be read only by setting it
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def check_writable(folder: Path) -> None:
    """Check that a folder is writable, so that a run fails at once and not after an hour of training.

    Raises:
        OSError: it is not; the error names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def storage_fault(error: BaseException | None) -> int | None:
    """The `errno` if a disk fault caused the exception, directly or in its chain; otherwise None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            return error.errno
        # Libraries in Rust (safetensors) keep only the system's message.
        for fault in _REMEDIES:
            if f"{os.strerror(fault)} (os error {fault})" in str(error):
                return fault
        error = error.__cause__ or error.__context__
    return None


def describe_fault(fault: int, where: Path | str | None) -> str:
    """One line for the user: the file or folder, what is wrong with it, and what to do."""
    place = f"{where}: " if where else ""
    return f"{place}{os.strerror(fault)}; {_REMEDIES[fault]}, then run the same command again"
