"""What holds for every test: an empty token cache, one thread, Triton interpreted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Tensors are tiny here: a second thread costs more than it brings, five times so where the cores are shared.
torch.set_num_threads(1)

# Read as Triton is imported, which transformers does long before the tests of the kernels. These alone use
# it: for everyone else the kernels do not run on a CPU.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in the place of the user's; converted base models, slow to make, stay shared."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repro.benchmarks.token_cache.user_cache_path", lambda name: folder / name)
        yield folder
