"""Compiles a C file for this machine's processor, once, and loads it.

The C compiler is all that it takes. torch's own way of building extensions also wants ninja and the headers
of Python, which are missing where Python comes without its development files.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch  # noqa: F401  the library is loaded into torch's OpenMP runtime, so torch has to be there first
from platformdirs import user_cache_path

_FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fopenmp", "-fPIC"]


def load(source: Path, macros: list[str]) -> ctypes.CDLL:
    """The library of `source`, compiled with `macros`, from the user's cache if it is there.

    The compiler is `$CC`, or `cc`. Raises OSError, with its first message, where it is not there or fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    # The macros that a compiler defines name itself, its version and all that the processor has: a folder
    # that is shared by unequal machines holds a library for each kind.
    target = _run([*compiler, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    text = "\0".join([source.read_text(encoding="utf-8"), *_FLAGS, *macros, target])
    path = _folder() / f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as scratch:
            made, library = f"{scratch}/made.o", f"{scratch}/made.so"
            _run([*compiler, *_FLAGS, *(f"-D{macro}" for macro in macros), "-c", str(source), "-o", made])
            # Without -fopenmp, which would bring a second OpenMP runtime, whose threads fight with torch's.
            _run([*compiler, "-shared", made, "-o", library])
            os.replace(library, path)
    return ctypes.CDLL(str(path))


def _folder() -> Path:
    return user_cache_path("dual-lora-repro") / "kernels"


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        message = next((line for line in error.stderr.splitlines() if "error" in line), "it says nothing")
        raise OSError(f"{command[0]} failed: {message.strip()}") from None
