"""Compiles a C file once for this machine's processor, and loads it.

This needs a C compiler only. torch's own way to build extensions also needs ninja and Python's headers, which
many Python installations lack.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch  # noqa: F401  the library uses torch's OpenMP runtime, so torch must be loaded first
from platformdirs import user_cache_path

_FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fopenmp", "-fPIC"]


def load(source: Path, macros: list[str]) -> ctypes.CDLL:
    """The library of `source`, compiled with `macros` or taken from the user's cache.

    The compiler is `$CC`, by default `cc`. Raises OSError with its first error if it is missing or fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    # A compiler's predefined macros name its version and the processor's instruction sets, so a cache that
    # different machines share holds one library for each kind.
    target = _run([*compiler, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    text = "\0".join([source.read_text(encoding="utf-8"), *_FLAGS, *macros, target])
    path = _folder() / f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as scratch:
            made, library = f"{scratch}/made.o", f"{scratch}/made.so"
            _run([*compiler, *_FLAGS, *(f"-D{macro}" for macro in macros), "-c", str(source), "-o", made])
            # Without -fopenmp, which would load a second OpenMP runtime beside torch's.
            _run([*compiler, "-shared", made, "-o", library])
            os.replace(library, path)
    return ctypes.CDLL(str(path))


def _folder() -> Path:
    return user_cache_path("dual-lora-repro") / "kernels"


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        message = next((line for line in error.stderr.splitlines() if "error" in line), "no error message")
        raise OSError(f"{command[0]} failed: {message.strip()}") from None
