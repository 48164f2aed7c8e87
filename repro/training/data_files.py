"""Reading files that users bring: never more than fits, and every fault is one line that names the file."""

from __future__ import annotations

import json
import re
import reprlib
import stat
import zlib
from gzip import GzipFile
from pathlib import Path
from typing import Any

from repro.training.data import DataError

# The largest file of the three families, the commonsense training mix, has 120 MB. A larger one, packed or
# not, is none of theirs, and would fill the memory.
MOST_BYTES = 256 * 2**20

_SHOWN = 60
_REPR = reprlib.Repr()
_REPR.maxstring = _SHOWN
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def shown(value: object) -> str:
    """The value in at most 60 characters, on one line, for an error message."""
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def read_plain_or_gzipped(path: Path, origin: str) -> tuple[Path, bytes]:
    """The file that was read and its content: `path`, or the same name with .gz added, unpacked.

    Args:
        origin: what to copy there, for the error message.

    Raises:
        DataError: neither file exists, or the one that does cannot be read, is damaged, or is too large.
    """
    for found in (path, path.with_name(f"{path.name}.gz")):
        if _exists(found):
            return found, read_file(found, origin)
    raise DataError(f"{path} is missing, and so is its .gz; copy {origin} there")


def read_file(path: Path, origin: str) -> bytes:
    """The content of a file, unpacked if its name ends with .gz.

    Raises:
        DataError: it is no regular file, cannot be read, is damaged, empty or larger than `MOST_BYTES`.
    """
    try:
        # A pipe or a device would be waited for, or read without an end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is no regular file; copy {origin} there")
        with path.open("rb") as file, GzipFile(fileobj=file) if path.suffix == ".gz" else file as unpacked:
            content = unpacked.read(MOST_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); copy {origin} there again") from error
    except OSError as error:  # gzip raises it without a number where the content is wrong
        problem = f"cannot be read ({error.strerror})" if error.errno else f"is damaged ({error})"
        raise DataError(f"{path} {problem}; copy {origin} there again") from error
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path} holds more than {MOST_BYTES // 2**20} MiB; copy {origin} there, which is less"
        )
    if not content:
        raise DataError(f"{path} is empty; copy {origin} there again")
    return content


def decoded(content: bytes, source: object) -> str:
    """Text in UTF-8, with or without a byte order mark.

    Raises:
        DataError: another encoding, or a NUL character, which no text has.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{source}: line {line} has a NUL character; save it as UTF-8, without binary content"
        )
    return text


def parsed_json(text: str, source: object) -> Any:
    """The value of a JSON text, by the standard alone: no NaN, no key twice in one object.

    Raises:
        DataError: it is not such a text.
    """
    objects = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal objects
        objects += 1
        keys = [key for key, _ in pairs]
        twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        if twice:
            raise ValueError(f"the object in row {objects} has the key {shown(twice[0])} twice")
        return dict(pairs)

    def refused(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refused)
    except RecursionError as error:
        raise DataError(f"{source} is nested too deeply; it must be a list of objects") from error
    except ValueError as error:
        raise DataError(f"{source} is no JSON ({error}); copy the file again") from error


def checked_text(value: object, where: str) -> str:
    """A value that must be a text which every tool can encode; `where` is its file, row and field.

    Raises:
        DataError: it is none, or has a NUL character or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise DataError(f"{where} is {shown(value)}; it must be a text")
    if bad := _NO_TEXT.search(value):
        near = value[max(0, bad.start() - 15) : bad.start() + 15]
        raise DataError(
            f"{where} has {shown(bad[0])}, a NUL character or half of a surrogate pair, in {shown(near)}; "
            "write whole characters"
        )
    return value


def _exists(path: Path) -> bool:
    """Whether there is anything of this name. A link to nothing is, so that the error names it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make its folder readable") from error
    return True
