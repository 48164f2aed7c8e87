"""Which code computes an update, and what happens where there is no C compiler."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from repro.adapters.dual_lora import backend, c_kernels, compiler, plain

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")

WEIGHT = torch.ones(6, 4)
FACTORS = [torch.ones(2, 4), torch.ones(6, 2)]


@pytest.fixture
def nothing_loaded() -> Iterator[None]:
    c_kernels.usable.cache_clear()
    c_kernels._library.cache_clear()
    yield
    c_kernels.usable.cache_clear()
    c_kernels._library.cache_clear()


def test_c_computes_on_a_cpu_in_its_precisions_and_torch_the_rest() -> None:
    assert backend.choose(FACTORS, WEIGHT) is c_kernels
    assert backend.choose(FACTORS, WEIGHT.bfloat16()) is c_kernels
    assert backend.choose(FACTORS, WEIGHT.half()) is plain
    assert backend.choose(FACTORS, WEIGHT.double()) is plain
    assert backend.choose([f.double() for f in FACTORS], WEIGHT) is plain
    assert backend.choose(FACTORS, WEIGHT[:0]) is plain
    assert backend.choose([f.to("meta") for f in FACTORS], WEIGHT.to("meta")) is plain


def test_one_can_have_torch_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend.torch_only():
        assert backend.choose(FACTORS, WEIGHT) is plain
    assert backend.choose(FACTORS, WEIGHT) is c_kernels
    monkeypatch.setenv("REPRO_KERNEL", "torch")
    with backend.torch_only():
        pass
    assert backend.choose(FACTORS, WEIGHT) is plain
    monkeypatch.setenv("REPRO_KERNEL", "fortran")
    with pytest.raises(ValueError, match="REPRO_KERNEL='fortran' is not possible, it must be auto or torch"):
        backend.choose(FACTORS, WEIGHT)


def test_triton_computes_on_its_devices_up_to_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_kernels = pytest.importorskip("repro.adapters.dual_lora.triton_kernels")
    assert (
        backend.choose(FACTORS, WEIGHT.cuda()) if torch.cuda.is_available() else triton_kernels
    ) is triton_kernels
    monkeypatch.setattr(backend, "TRITON_DEVICES", {"cpu"})
    assert backend.choose(FACTORS, WEIGHT) is triton_kernels
    assert backend.choose(FACTORS, WEIGHT.half()) is triton_kernels
    assert backend.choose(FACTORS, WEIGHT.double()) is plain
    assert backend.choose([torch.ones(65, 99), torch.ones(99, 65)], WEIGHT) is c_kernels


@pytest.mark.parametrize(
    ("command", "reason"),
    [("no-such-compiler", "No such file"), ("cc -no-such-option", "cc failed: .*no-such-option")],
)
def test_without_a_compiler_torch_computes_and_says_so(
    command: str, reason: str, nothing_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.warns(UserWarning, match=f"computes with torch.*{reason}.*Set CC to a C compiler"):
        assert backend.choose(FACTORS, WEIGHT) is plain
    assert backend.choose(FACTORS, WEIGHT) is plain  # and not once more


def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "user_cache_path", lambda name: tmp_path / name)
    source = tmp_path / "seven.c"
    source.write_text("int value(void) { return VALUE; }", encoding="utf-8")
    assert compiler.load(source, ["VALUE=7"]).value() == 7
    (made,) = tmp_path.rglob("*.so")
    written = made.stat().st_mtime_ns
    assert compiler.load(source, ["VALUE=7"]).value() == 7
    assert compiler.load(source, ["VALUE=8"]).value() == 8
    assert made.stat().st_mtime_ns == written
    assert len(list(tmp_path.rglob("*.so"))) == 2
    assert {path.suffix for path in made.parent.iterdir()} == {".so"}
    source.write_text("int value(void) { return WRONG; }", encoding="utf-8")
    with pytest.raises(OSError, match=r"cc failed: .*WRONG"):
        compiler.load(source, [])
