"""Texts with parts that are made from code or from results. Tests fail when they are stale."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from repro.methods.registry import METHODS
from repro.paths import ROOT
from repro.plans.profile import list_profiles, load_profile

Parts = Mapping[str, Callable[[], list[str]]]
"""What writes the lines of a part, by the part's name."""


def with_generated_parts(text: str, parts: Parts | None = None, source: str = "README.md") -> str:
    """The text with everything between `<!-- generated: X -->` and `<!-- end -->` written anew.

    Args:
        parts: README.md's where None.
        source: the text's file, for errors.

    Raises:
        ValueError: a marker names a part that does not exist.
    """
    known = _PARTS if parts is None else parts

    def renew(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in known:
            raise ValueError(f"{source}: unknown generated part {name!r}; known: {', '.join(known)}")
        return f"<!-- generated: {name} -->\n" + "\n".join(known[name]()) + "\n<!-- end -->"

    return re.sub(r"<!-- generated: ([\w/-]+) -->\n.*?<!-- end -->", renew, text, flags=re.DOTALL)


def make_targets() -> dict[str, str]:
    """The Makefile's targets, each with the comment behind it."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.%-]+):.*?## (.*)", line) for line in lines)
    return {match.group(1): match.group(2) for match in found if match}


def _targets() -> list[str]:
    return [
        "| target | what it does |",
        "|---|---|",
        *(f"| `make {k}` | {v} |" for k, v in make_targets().items()),
    ]


def _methods() -> list[str]:
    lines = ["| row | name in experiment files | from |", "|---|---|---|"]
    return lines + [f"| {cls.label} | `{name}` | {cls.citation} |" for name, cls in METHODS.items()]


def _profiles() -> list[str]:
    lines = ["| profile | purpose | seeds | cost |", "|---|---|---|---|"]
    order = sorted((load_profile(name) for name in list_profiles()), key=lambda p: _ORDER.index(p.name))
    return lines + [f"| `{p.name}` | {p.purpose} | {len(p.seeds)} | {p.cost} |" for p in order]


_ORDER = ["smoke", "laptop", "workstation", "paper"]

_PARTS: Parts = {"targets": _targets, "methods": _methods, "profiles": _profiles}
