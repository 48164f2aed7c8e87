"""Runs any Python program in this process with the adapters of this project registered with peft.

    python -m repro.with_adapters lm_eval --model hf --model_args pretrained=...,peft=...
    python -m repro.with_adapters python -m package.module ...
    python -m repro.with_adapters train.py ...

The program sees its own arguments and is `__main__`; its exit status is this one's. Processes that it starts
do not inherit the registration; `repro register` reaches those too.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

_USAGE = "usage: python -m repro.with_adapters PROGRAM ARGS..., a console script, -m MODULE or a file.py"


def main(arguments: Sequence[str]) -> None:
    """Run the program; what it raises, `SystemExit` among it, is raised here.

    Raises:
        SystemExit: with 2, if there is no such program.
    """
    words = list(arguments)
    if words and re.fullmatch(r"python[0-9.]*", Path(words[0]).name):
        del words[0]  # `python -m x` runs in this process too
    if words[:1] == ["-m"]:
        _run_module(words[1:])
    elif words and not words[0].startswith("-"):
        _run_file(words)
    else:
        _refuse(_USAGE)


def _run_module(words: list[str]) -> None:
    name = words[0] if words else ""
    try:
        found = find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        _refuse(f"there is no module {name!r} in this environment; after -m, name an installed one")
    _register()
    sys.argv = words  # runpy replaces the first by the module's file
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_file(words: list[str]) -> None:
    path = Path(words[0])
    if not path.is_file():
        # Scripts of this environment first, whether or not it is activated.
        places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        script = None if path.name != words[0] else shutil.which(words[0], path=places)
        if script is None:
            _refuse(f"there is no file and no console script {words[0]!r}; install it into this environment")
        path = Path(script)
        if not _is_python(path):
            _refuse(f"{path} is not a Python script, so it cannot run in this process; name its module by -m")
    _register()
    sys.argv = [str(path), *words[1:]]
    sys.path[0] = str(path.resolve().parent)  # as Python itself does for a file
    runpy.run_path(str(path), run_name="__main__")


def _is_python(script: Path) -> bool:
    # pip writes a second line for `exec` where the interpreter's path is too long for the first.
    with script.open("rb") as file:
        start = file.read(512)
    return start.startswith(b"#!") and b"python" in b"".join(start.splitlines()[:2])


def _register() -> None:
    import repro.adapters  # noqa: F401  the import registers them


def _refuse(reason: str) -> NoReturn:
    print(f"repro.with_adapters: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
