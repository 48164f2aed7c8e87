"""The Triton kernels for tests, or the reason why they cannot be tested here."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import pytest
from packaging.version import Version


def triton_kernels() -> Any:
    """The module of the kernels. Skips without Triton, and with an interpreter that cannot run them."""
    kernels = pytest.importorskip(
        "repro.adapters.dual_lora.triton_kernels", reason="the kernels need Triton; pip install -e '.[cuda]'"
    )
    import triton

    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if (
        interpreted
        and Version(triton.__version__) < Version("3.7")
        and Version(version("numpy")) >= Version("2.4")
    ):
        reason = f"the interpreter of Triton {triton.__version__} fails under numpy 2.4, that of 3.7 does not"
        pytest.skip(reason, allow_module_level=True)
    return kernels
