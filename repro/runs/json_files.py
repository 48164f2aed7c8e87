"""Typed JSON files: written whole, and read without belief in what they hold.

A results folder may come from somebody else, or from a disk that lost a part of it.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from repro.config import ConfigError, Frozen
from repro.files import write_whole

T = TypeVar("T", bound=Frozen)

# Bytes. A result of the paper's profile, with its losses and outcomes, has 2 MB.
LARGEST = 2**26

# Characters of a file's own words in a message.
_SHOWN = 400


class DamagedFile(ConfigError):
    """A file of the results cannot be used; one line says which, why, and what to do."""


def read_json(path: Path, model_cls: type[T], remedy: str = "delete it to run again") -> T | None:
    """Read a typed file; None if there is none.

    Types are exact: a number in quotes, or `true` in the place of 1, is refused.

    Raises:
        DamagedFile: there is one, but it cannot be understood. The message ends with `remedy`.
    """
    try:
        content = read_regular(path)
        if content is None:
            return None
        strict_json(content)  # pydantic would take the last of two equal keys
        return model_cls.model_validate_json(content, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        why = f"{where}: {problem['msg']}"
    except ValueError as error:
        why = str(error)
    version = model_cls.model_fields.get("version")
    kind = model_cls.__name__.lower() + (f" of version {version.default}" if version else "")
    raise DamagedFile(f"{path}: not a valid {kind} ({one_line(why)}); {remedy}")


def write_json(path: Path, content: Frozen) -> None:
    """Write a typed file whole or not at all."""
    text = json.dumps(content.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


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


def one_line(text: str) -> str:
    """Words of a file as a part of a message: one line that moves no cursor, and not too long."""
    shown = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} stands in it twice")
    return found
