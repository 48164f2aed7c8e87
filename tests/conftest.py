"""What holds for every test: an empty token cache, one thread, a CPU or a GPU, Triton interpreted.

And the disks that tests of faults need, where the system lends them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch

# Tiny models, which the tests of training and of benchmarks share.
pytest_plugins = ("tests.tiny_models",)

# Tensors are tiny here: a second thread costs more than it brings, five times so where the cores are shared.
torch.set_num_threads(1)

# Where the tests compute. By default neither they nor the processes that they start see a GPU, so they are
# the same on every machine. With `-m gpu`, or REPRO_TEST_GPU=1 as `make test-gpu` sets it, only those marked
# gpu run, and see it. CUDA and Triton read their variables once, which the next imports cause. Triton's
# interpreter is for the tests of its kernels alone: for everyone else they do not run on a CPU.
if ("-m", "gpu") in pairwise(sys.argv):
    os.environ["REPRO_TEST_GPU"] = "1"  # also for the workers of pytest-xdist
ON_GPU = os.environ.get("REPRO_TEST_GPU") == "1"
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu where they cannot run; with a GPU, leave out all others."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not ON_GPU or not torch.cuda.is_available():
        reason = "there is no NVIDIA GPU here" if ON_GPU else "needs an NVIDIA GPU: make test-gpu"
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
    if ON_GPU:
        config.hook.pytest_deselected(items=[item for item in items if item not in marked])
        items[:] = marked


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a test computes, for tests of what runs on both."""
    return str(request.param)


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
