"""Reads files without belief in what they hold: they may be damaged, or come from somebody else."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from repro.text import one_line

# Bytes. A result of the paper's profile, with its losses and outcomes, has 2 MB.
LARGEST = 2**26

# Characters of a file's own words in a message.
_SHOWN = 400


def read_regular(path: Path, largest: int = LARGEST) -> bytes | None:
    """The content of an ordinary file; None if there is nothing of that name.

    Raises:
        ValueError: it is a folder, a device, a pipe or a link to nothing, it is larger than `largest` bytes,
            or the system cannot read it. The message does not name it.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise ValueError("it is no ordinary file")
        if found.st_size > largest:
            raise ValueError(f"it has {found.st_size:,} bytes, at most {largest:,} are read")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise ValueError("it is a link to nothing") from None
        return None
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error


def strict_json(content: bytes) -> Any:
    """Content in JSON.

    Raises:
        ValueError: it is not valid UTF-8 or JSON, holds a key twice, or is nested beyond Python's limit.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def excerpt(text: str) -> str:
    """Words of a file as a part of a message: one line, and not too long."""
    shown = one_line(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} stands in it twice")
    return found
