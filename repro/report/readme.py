"""Pages with parts that are generated from code or results. Tests fail when such a part is out of date."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from repro.methods.registry import METHODS
from repro.plans.profile import list_profiles, load_profile

Parts = Mapping[str, Callable[[], list[str]]]
"""The functions that write a page's parts, each by the name of its part."""


def with_generated_parts(text: str, parts: Parts | None = None, source: str = "README.md") -> str:
    """The text with everything between `<!-- generated: X -->` and `<!-- end -->` generated again.

    Args:
        parts: those of README.md if None.
        source: the file that the text is from, for the error message.

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


def _methods() -> list[str]:
    lines = ["| row | name in experiment files | from |", "|---|---|---|"]
    return lines + [f"| {cls.label} | `{name}` | {cls.citation} |" for name, cls in METHODS.items()]


def _profiles() -> list[str]:
    lines = ["| profile | purpose | seeds | cost |", "|---|---|---|---|"]
    order = sorted((load_profile(name) for name in list_profiles()), key=lambda p: _ORDER.index(p.name))
    return lines + [f"| `{p.name}` | {p.purpose} | {len(p.seeds)} | {p.cost} |" for p in order]


_ORDER = ["smoke", "laptop", "overnight", "workstation", "paper"]

_PARTS: Parts = {"methods": _methods, "profiles": _profiles}
