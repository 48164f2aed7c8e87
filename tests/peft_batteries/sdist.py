"""peft's own tests, from the source distribution of the installed version."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from platformdirs import user_cache_path

VERSION = "0.21.2"
SHA256 = "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e"


def unpack_tests(folder: Path) -> None:
    """Put peft's tests into `folder` as the package `peft_tests`. Skips where they cannot be downloaded.

    Raises ValueError if the distribution is not the one that the checksum names.
    """
    archive = _download()
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != SHA256:
        raise ValueError(f"{archive} has the SHA-256 {found}, it must be {SHA256}. Delete it and try again.")
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    tests = (folder / f"peft-{VERSION}" / "tests").rename(folder / "peft_tests")
    (tests / "__init__.py").touch()  # the distribution lacks it; its tests import one another


def _download() -> Path:
    folder = user_cache_path("dual-lora-repro") / "peft-sdist"
    archive = folder / f"peft-{VERSION}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", ":all:", "--dest", str(folder), f"peft=={VERSION}"]
        downloaded = subprocess.run(command, capture_output=True, text=True, check=False)
        if downloaded.returncode:
            reason = downloaded.stderr.strip().splitlines() or ["pip gives no reason"]
            pytest.skip(f"peft's tests cannot be downloaded: {reason[-1]}")
    return archive
