"""docs/paper.md quotes lines that exist, and links between pages lead to files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.paths import ROOT

PAGE = ROOT / "docs" / "paper.md"
# A link to a file, and the lines quoted from it.
QUOTES = [
    (target, quote)
    for target, quotes in re.findall(
        r"\]\((\.\./[^)]+)\)((?: `[^`]+`)*)", PAGE.read_text(encoding="utf-8").replace("\\|", "|")
    )
    for quote in re.findall(r"`([^`]+)`", quotes) or [""]
]


def test_every_section_quotes_lines() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(sections) == 9
    assert all("](../" in section for section in sections)
    assert len(QUOTES) > 60


@pytest.mark.parametrize(("target", "quote"), QUOTES)
def test_a_quoted_line_is_in_its_file(target: str, quote: str) -> None:
    path = (PAGE.parent / target).resolve()
    assert path.is_relative_to(ROOT) and path.exists()
    assert quote in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "results/paper/README.md"]
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(((?!https?://|#)[^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target.partition("#")[0]).exists(), target
