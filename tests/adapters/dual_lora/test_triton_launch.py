"""Launches that skip Triton's binding of arguments, with a launcher that records them."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.dual_lora.test_triton_compiled import fake_gpu


def test_a_cached_launch_is_the_launch_that_triton_makes(tmp_path: Path) -> None:
    found = fake_gpu("launch", tmp_path)
    first, second, unaligned, third = (found[name] for name in ("first", "second", "unaligned", "third"))
    assert [kernel for kernel, _, _ in first["launches"]] == ["add_update", "add_gradients", "sum_parts"]
    assert first["through the compiler"] == 3
    assert second["through the compiler"] == third["through the compiler"] == 0
    assert first["launches"] == second["launches"] == third["launches"]
    # G begins 2 bytes after a multiple of 16: only its kernel is compiled once more.
    assert unaligned["through the compiler"] == 1
    assert unaligned["launches"] == first["launches"]
    taken = found["microseconds"]
    assert taken["cached"] < taken["through the compiler"]
