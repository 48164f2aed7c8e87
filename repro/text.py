"""Text that came with results or settings, made fit to be shown."""

from __future__ import annotations

import unicodedata

# Control characters, halves of characters, and the two separators that end a line in some readers only.
_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}
# They turn the direction of what follows, so that a line reads otherwise than it is written.
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    """The text on one line: white space is a blank, a character that is no text becomes U+FFFD."""
    shown = (
        " "
        if character in "\t\n\v\f\r\x85\u2028\u2029"
        else "\ufffd"
        if character in _TURNING or unicodedata.category(character) in _NOT_SHOWN
        else character
        for character in text
    )
    return "".join(shown)


def lines(text: str) -> str:
    """The text with its line ends, and each line as `one_line` shows it."""
    return "\n".join(map(one_line, text.split("\n")))
