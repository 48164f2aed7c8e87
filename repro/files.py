"""Files that are there whole or not at all, and what to say when a disk takes no more of them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"

# Faults of the machine and not of what it was doing, and what a person does about each.
_ROOM = "make room"
_ANOTHER = "make it writable, or set REPRO_RESULTS_DIR to a folder that is"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: _ANOTHER,
    errno.EACCES: _ANOTHER,
    errno.EPERM: _ANOTHER,
    errno.EIO: "see to the disk",
    errno.ESTALE: "see to the network's disk",
}


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes its name only when it is complete and on the disk.

    A process that is killed meanwhile leaves the file as it was, and a part of the new one beside it (see
    `remove_partial`).

    Raises:
        OSError: it could not be written; the error names `path`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: from another disk a file would be copied into its place, piece by piece.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps others out; results are meant to be shared.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        fault = storage_fault(error)
        if fault is not None:
            raise OSError(fault, os.strerror(fault), str(path)) from error
        raise
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it could not be written; the error names `path`.
    """
    with whole_file(path) as file:
        file.write(content)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left of files in a folder that no other process writes to."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Find out now, and not after an hour of training, whether a folder takes files; nothing is left in it.

    Raises:
        OSError: it does not; the error names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def storage_fault(error: BaseException | None) -> int | None:
    """The `errno` of a fault of the disk behind an exception; None where it is about something else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            return error.errno
        # Libraries in other languages (safetensors) pass on the system's words alone.
        for fault in _REMEDIES:
            if f"{os.strerror(fault)} (os error {fault})" in str(error):
                return fault
        error = error.__cause__ or error.__context__
    return None


def describe_fault(fault: int, where: Path | str | None) -> str:
    """One line for a person: what is wrong with which file or folder, and what to do."""
    place = f"{where}: " if where else ""
    return f"{place}{os.strerror(fault)}; {_REMEDIES[fault]}, and the same command goes on"
