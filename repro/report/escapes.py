"""Text of results and settings as text, and nothing but text, in each format that is written."""

from __future__ import annotations

import re

from repro.text import one_line

# What would open an element, a comment or a character's name in the HTML that Markdown becomes.
_HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
# A backslash, and what would make a link or a picture of the brackets before it.
_MARKUP = re.compile(r"\\|\](?=[(\[:])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# A spreadsheet takes a cell that begins with one of these, in either width, for a formula.
_FORMULA = re.compile(r"\s*[=+@\uff1d\uff0b\uff20\uff0d-]")
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "†": r"$\dagger$",
        **{character: f"\\{character}" for character in "{}$&%_#"},
    }
)
# A figure's label longer than this would leave no room for what is drawn.
_LABEL = 80


def markdown_text(text: str) -> str:
    """A name or a message on one line, in or outside of a table."""
    return markdown_cell(text).replace("`", "\\`")


def markdown_cell(text: str) -> str:
    """A sentence in a table, which may hold code between backticks."""
    return markdown_prose(text).replace("|", "\\|")


def markdown_prose(text: str) -> str:
    """A sentence on one line outside of tables, which may hold code between backticks."""
    escaped = _MARKUP.sub(r"\\\g<0>", one_line(text))
    return _HTML.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", escaped)


def latex_text(text: str) -> str:
    """A cell or a heading."""
    return one_line(text).translate(_LATEX)


def csv_text(text: str) -> str:
    """A cell; what a spreadsheet would compute begins with an apostrophe, numbers do not."""
    line = one_line(text)
    return f"'{line}" if _FORMULA.match(line) and not _NUMBER.fullmatch(line) else line


def figure_text(text: str, most: int = _LABEL) -> str:
    """A label of matplotlib, which takes what stands between two $ for mathematics. It is cut at `most`."""
    line = one_line(text)
    return (line if len(line) <= most else line[: most - 1] + "…").replace("$", r"\$")
