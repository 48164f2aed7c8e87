"""What holds for every test: an empty token cache, one thread, Triton interpreted.

And the disks that tests of faults need, where the system lends them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

# Tiny models, which the tests of training and of benchmarks share.
pytest_plugins = ("tests.tiny_models",)

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
        patch.setattr("repro.training.token_cache.user_cache_path", lambda name: folder / name)
        yield folder


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skips the test where nobody may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on a disk of 2 MiB."""
    with _mounted(tmp_path / "small", "2m") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """An empty folder that not even root can write to."""
    with _mounted(tmp_path / "read-only", "1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder
