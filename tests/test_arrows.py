"""Imports go one way: a package knows those below it, and nothing of those above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import repro

ROOT = Path(repro.__file__).parent

# From the bottom to the top. A package imports those of earlier lines, itself and the plain modules (config,
# files, paths). Packages of one line know nothing of each other.
ROOMS = [
    ["adapters", "optimizers", "models"],
    ["methods"],
    ["training", "merging"],
    ["benchmarks"],
    ["plans"],
    ["runs"],
    ["slurm", "analysis"],
    ["report"],
    ["speed", "rehearsal"],
    ["cli"],
]
BELOW = {
    package: {below for line in ROOMS[:place] for below in line}
    for place, line in enumerate(ROOMS)
    for package in line
}


def imported(path: Path) -> Iterator[str]:
    """Packages of this project that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "repro" and len(parts) > 1 and (ROOT / parts[1]).is_dir():
                yield parts[1]


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports repro.{name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imported(path)
        if name != package and name not in BELOW[package]
    ]
    assert wrong == []


def test_every_package_has_its_place() -> None:
    assert {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()} == set(BELOW)
