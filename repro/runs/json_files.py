"""Typed JSON files: written whole, and read without belief in what they hold.

A results folder may come from somebody else, or from a disk that lost a part of it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from repro.config import ConfigError, Frozen
from repro.files import write_whole
from repro.reading import excerpt, read_regular, strict_json

T = TypeVar("T", bound=Frozen)


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
    raise DamagedFile(f"{path}: not a valid {kind} ({excerpt(why)}); {remedy}")


def write_json(path: Path, content: Frozen) -> None:
    """Write a typed file whole or not at all, lists of numbers on one line."""
    text = json.dumps(content.model_dump(mode="json"), indent=1, ensure_ascii=False)
    # A newline is never inside a string of JSON, so what is matched is a list, of neither texts nor lists.
    text = re.sub(r'\[\n[^][{}"]*\]', lambda numbers: "".join(numbers[0].split()), text)
    write_whole(path, f"{text}\n".encode())
