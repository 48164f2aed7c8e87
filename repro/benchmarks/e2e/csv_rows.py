"""Rows of a CSV file by the letter of RFC 4180.

Python's csv module, strict or not, takes a quote in the middle of an unquoted field for a character of it,
and refuses long fields. A file with such a quote was written by hand, or cut, and its sentences are not what
they seem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from repro.training.data import DataError
from repro.training.data_files import shown

_FIELD = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"|([^",\r\n]*+)')
_LINE_END = re.compile(r"\r\n|\n|\r|\Z")


def csv_rows(text: str, columns: tuple[str, ...], source: str) -> Iterator[dict[str, str]]:
    """Every record after the heading, by column. Empty lines at the end are no records.

    Raises:
        DataError: the heading is not `columns`, or a record has a quote out of place or other fields.
    """
    records = _records(text.rstrip("\r\n"), source)
    _, heading = next(records, (1, []))
    if heading != list(columns):
        raise DataError(
            f"{source}: the heading is {shown(','.join(heading))}; it must be {','.join(columns)}"
        )
    for number, (line, fields) in enumerate(records, 1):
        if len(fields) != len(columns):
            raise DataError(
                f"{source}: row {number} (line {line}) has {len(fields)} fields, {shown(','.join(fields))}; "
                f"it must have {len(columns)}, {','.join(columns)}, with quotes around one that has a comma"
            )
        yield dict(zip(columns, fields, strict=True))


def _records(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record begins, and its fields."""
    position, line = 0, 1
    while position < len(text):
        start = position
        fields: list[str] = []
        while not fields or text.startswith(",", position):
            found = _FIELD.match(text, position + bool(fields))
            assert found is not None  # a field may be empty
            quoted, plain = found.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            position = found.end()
        end = _LINE_END.match(text, position)
        if end is None:
            raise DataError(
                f"{source}: the record of line {line} has a quote that is not closed, or out of place, at "
                f"{shown(text[position : position + 40])}; close it, and write a quote inside a text twice"
            )
        yield line, fields
        position = end.end()
        line += len(re.findall(r"\r\n|\n|\r", text[start:position]))
