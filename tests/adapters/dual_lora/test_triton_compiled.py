"""The Triton kernels' code for an H100, compiled without one. Triton's interpreter does not show this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def fake_gpu(task: str, folder: Path) -> Any:
    """What `fake_gpu.py` prints, with an empty cache of compiled kernels."""
    pytest.importorskip("triton", reason="the kernels need Triton; pip install -e '.[cuda]'")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.adapters.dual_lora.fake_gpu", task]
    run = subprocess.run(
        command,
        env=environment | {"TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fake_gpu("compile", tmp_path_factory.mktemp("triton"))


def test_every_product_keeps_its_precision(code: Any) -> None:
    """Signs come from full fp32; a product of the gradients is three of bf16 numbers, or six for fp32."""
    for case, kernels in code.items():
        assert kernels["add_update"]["products"] == {"f32": 2}, case
        assert kernels["add_update"]["mma"] == {}, case
        add = kernels["add_gradients"]
        assert add["products"] == {"f32": 2, "bf16": 4 * (6 if "float32" in case else 3)}, case
        assert set(add["mma"]) == {"bf16"}, case  # and none of tf32
        assert add["mma"]["bf16"] % add["products"]["bf16"] == 0, case


def test_hardly_a_register_is_spilled_at_the_ranks_of_the_paper(code: Any) -> None:
    for case, kernels in code.items():
        assert kernels["add_update"]["spilled"] == kernels["sum_parts"]["spilled"] == 0, case
        if "17" not in case:
            assert kernels["add_gradients"]["spilled"] <= 128, case
    # Two programs share a multiprocessor's 65536 registers.
    assert code["bfloat16 16 16"]["add_gradients"]["registers"] <= 128


def test_two_programs_find_room_in_shared_memory(code: Any) -> None:
    for kernels in code.values():
        assert all(2 * kernel["shared"] <= 227 * 1024 for kernel in kernels.values())
