"""The user's compiled libraries, kept between processes.

Loading a library executes it. So only files that nobody else can have written are read, and each is named
after its own digest: one that is cut short or damaged is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from ...files import write_whole

_REMEDY = "set XDG_CACHE_HOME to a folder of your own on a disk with room"


def user_cache_path(name: str) -> Path:
    """The folder of this user's caches for a name, by the XDG base directory specification."""
    given = os.environ.get("XDG_CACHE_HOME", "").strip()
    return Path(given or os.path.expanduser("~/.cache"), name)


class CacheError(OSError):
    """The cache cannot be used; the message says which folder, why, and what to do."""


class LibraryCache:
    """A folder of this user that others can neither read nor write, made if it is missing."""

    def __init__(self) -> None:
        """Raises `CacheError` if the folder cannot be made, or others can write to it."""
        self._folder = user_cache_path("dual-lora-repro") / "kernels"
        if not self._folder.is_absolute():
            raise self._error("not an absolute path")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.lstat()
        except OSError as error:
            raise self._error(error.strerror) from error
        if not stat.S_ISDIR(found.st_mode):
            raise self._error("a link, and not a folder")
        if found.st_uid != os.geteuid():
            raise self._error("it belongs to another user")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CacheError(f"{self._folder}: others can write to it; delete it")
        if stat.S_IMODE(found.st_mode) != 0o700:  # of an older version
            with suppress(OSError):  # a disk that takes nothing may still be read
                self._folder.chmod(0o700)

    def get(self, name: str) -> bytes | None:
        """The library kept under a name, if there is one and it is undamaged."""
        for path in self._folder.glob(f"{name}-*.so"):
            with suppress(OSError):
                content = _own(path)
                if path == self._path(name, content):
                    return content
        return None

    def put(self, name: str, library: bytes) -> None:
        """Keep a library, in the place of damaged ones of this name. Raises `CacheError` if it cannot."""
        path = self._path(name, library)
        try:
            write_whole(path, library)
        except OSError as error:
            raise self._error(error.strerror) from error

    def _path(self, name: str, content: bytes) -> Path:
        return self._folder / f"{name}-{hashlib.sha256(content).hexdigest()}.so"

    def _error(self, reason: str | None) -> CacheError:
        return CacheError(f"{self._folder}: {reason}; {_REMEDY}")


def _own(path: Path) -> bytes:
    """Content of a regular file of this user. Raises OSError for any other."""
    # Without waiting for a pipe's other end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(f"{path}: no file of this user")
        return file.read()
