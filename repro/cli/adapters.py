"""Verbs that let other programs use an adapter."""

from __future__ import annotations

import argparse

from repro.cli.shared import short


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
