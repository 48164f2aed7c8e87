"""What holds for every test: no reading or filling of the token cache of whoever runs it, and one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Tensors are tiny here: a second thread costs more than it brings, five times so where the cores are shared.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in the place of the user's; converted base models, slow to make, stay shared."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repro.benchmarks.token_cache.user_cache_path", lambda name: folder / name)
        yield folder
