"""Verbs that let other programs use an adapter."""

from __future__ import annotations

import argparse
import os
import sysconfig
from pathlib import Path

from repro.cli.shared import short
from repro.config import ConfigError
from repro.files import write_whole

# Python executes such a line of a .pth file at every start. It says nothing where repro was uninstalled.
_LINE = (
    r'import sys; exec("try:\n from repro.registration import wait_for_peft\nexcept ImportError:\n pass\n'
    r'else:\n wait_for_peft()")'
    "\n"
)


def merge_adapter(options: argparse.Namespace) -> int:
    """`merge`: write a base model with an adapter in its weights, as an ordinary checkpoint."""
    from repro.merging.merge import merge
    from repro.quiet import quiet_libraries

    with quiet_libraries():
        done = merge(options.adapter, options.out, options.base)
    whole = f", {done.replaced} tensors taken from the adapter as they are" if done.replaced else ""
    print(f"merged: {done.layers} layers{whole}")
    if done.left_out:
        print(f"left out: {done.left_out} tensors of the base's files that the model does not have")
    print(f"written: {short(options.out)}, {done.bytes / 1e9:.3g} GB in {done.shards} file(s) of weights")
    return 0


def register_adapters(options: argparse.Namespace) -> int:
    """`register`: write, or remove, the file that registers the adapters in this environment's programs.

    Raises:
        ConfigError: the environment's folder of packages is not writable.
    """
    folder = Path(sysconfig.get_path("purelib"))
    path = folder / "repro_adapters.pth"
    content = path.read_text(encoding="utf-8") if path.is_file() else None
    if content == (None if options.remove else _LINE):
        print(f"nothing to do: {path} {'does not exist' if options.remove else 'is there already'}")
        return 0
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} is not writable; use an environment of your own (python -m venv)")
    if options.remove:
        path.unlink()
        print(f"removed: {path}")
    else:
        write_whole(path, _LINE.encode())
        print(f"written: {path}; it registers the adapters when a program imports peft")
    return 0
