"""Compiles a C file once for this machine's processor, and loads it.

This needs a C compiler only. torch's own way to build extensions also needs ninja and Python's headers, which
many Python installations lack.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import signal
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Timer

import torch  # noqa: F401  the library uses torch's OpenMP runtime, so torch must be loaded first

from .library_cache import CacheError, LibraryCache

_FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fopenmp", "-fPIC"]

# A compiler that takes longer hangs: it needs about a second.
_SECONDS = 120

# A compiler that prints more is none, `yes` for instance.
_MOST_BYTES = 2**22


def load(source: Path, macros: list[str]) -> ctypes.CDLL:
    """The library of `source` and its headers, compiled with `macros` or taken from the user's cache.

    The compiler is `$CC`, by default `cc`. Warns if the cache cannot be used; then every process compiles.

    Raises:
        OSError: the compiler is missing, fails or hangs, or the library cannot be loaded. The message says
            what to do.
    """
    compiler = _compiler()
    # A compiler's predefined macros name its version and the processor's instruction sets, so a cache that
    # different machines share holds one library for each kind.
    printed = _run([*compiler, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    target = [line for line in printed.splitlines() if line.startswith("#define ")]
    if not target:
        raise _fault("it defines no macros, as a C compiler does")
    read = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))]
    text = "\0".join([*read, *_FLAGS, *macros, *target])
    name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    cache, library = None, None
    try:
        cache = LibraryCache()
        library = cache.get(name)
    except CacheError as error:
        _warn(error)
    # Private, and not the cache: what is loaded is what was checked, whoever can write to its parents.
    with TemporaryDirectory(prefix="dual-lora-", ignore_cleanup_errors=True) as scratch:
        path = Path(scratch, f"{source.stem}.so")
        if library is None:
            library = _compiled(compiler, source, macros, path)
            if cache is not None:
                try:
                    cache.put(name, library)
                except CacheError as error:
                    _warn(error)
        else:
            path.write_bytes(library)
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            raise OSError(
                f"the library that {shlex.join(compiler)} made cannot be loaded ({error}); set CC to a C "
                "compiler with OpenMP, or TMPDIR to a folder from which programs may be executed"
            ) from error


def _compiled(compiler: list[str], source: Path, macros: list[str], path: Path) -> bytes:
    made = path.with_suffix(".o")
    _run([*compiler, *_FLAGS, *(f"-D{macro}" for macro in macros), "-c", str(source), "-o", str(made)])
    # Without -fopenmp, which would load a second OpenMP runtime beside torch's.
    _run([*compiler, "-shared", str(made), "-o", str(path)])
    if not path.is_file() or not path.stat().st_size:
        raise _fault("it ends well and writes nothing")
    return path.read_bytes()


def _compiler() -> list[str]:
    try:
        command = shlex.split(os.environ.get("CC", "cc"))
    except ValueError as error:
        raise _fault(str(error)) from None
    if not command:
        raise _fault("it is empty")
    return command


def _run(command: list[str]) -> str:
    """What the command prints. It and its children are ended where it hangs or prints without end."""
    try:
        # In a group of its own, which can be ended as a whole.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise _fault(f"it cannot be started, {error.strerror}") from None
    hung = Event()

    def give_up() -> None:
        hung.set()
        _end(process)

    late = Timer(_SECONDS, give_up)
    late.daemon = True
    late.start()
    assert process.stdout is not None
    with process:
        try:
            printed = process.stdout.read(_MOST_BYTES)
            if len(printed) == _MOST_BYTES:
                raise _fault("it prints without end")
            status = process.wait()
        finally:
            late.cancel()
            _end(process)
    if hung.is_set():
        raise _fault(f"it did not end within {_SECONDS} s")
    text = printed.decode(errors="replace")
    if status:
        lines = text.strip().splitlines() or [f"status {status}"]
        raise _fault(f"{command[0]} failed: {next((line for line in lines if 'error' in line), lines[-1])}")
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command's group; of one that has ended, what it left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _fault(reason: str) -> OSError:
    return OSError(
        f"CC={os.environ.get('CC', 'cc')!r} does not compile ({' '.join(reason.split())}); set CC to a C "
        "compiler with OpenMP"
    )


def _warn(error: CacheError) -> None:
    warnings.warn(f"Dual LoRA compiles its kernels in every process: {error}", stacklevel=2)
