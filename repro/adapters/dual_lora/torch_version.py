"""Says so in one line where torch is older than the dependencies allow, as pip does not for what is there."""

from __future__ import annotations

import warnings

import torch

# As in pyproject.toml. Dynamo of 2.11 cannot trace all that a pass executes.
OLDEST = (2, 13)


def warn_if_older() -> None:
    """Warn of a torch that is older than `OLDEST`."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        warnings.warn(
            f"torch {torch.__version__} is installed, and Dual LoRA needs {needed} or later: an older one "
            f"may fail in torch.compile; pip install 'torch>={needed}'",
            stacklevel=2,
        )
