"""Data that several of these tests read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from repro.benchmarks.commonsense.package import PackageSource
from repro.benchmarks.commonsense.records import Record


@cache
def _paper_test(task: str) -> list[Record]:
    return PackageSource().paper_test(task)


@pytest.fixture(scope="session")
def paper_test() -> Callable[[str], list[Record]]:
    """Task name -> all records of the paper's test set, as the package holds them."""
    return _paper_test
