"""Silence for messages of the libraries that repeat for every run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence routine messages of the libraries, such as the list of devices or that a file loads."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    names = ("transformers", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        # Intended for RandLoRA and VeRA: their fixed matrices are drawn again from a seed.
        warnings.filterwarnings("ignore", message="Specified to not (save|load) ")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
