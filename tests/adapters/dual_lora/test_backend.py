"""Which code computes an update: by device, dtype, rank and rule, and without a C compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from repro.adapters.dual_lora import DualLoraConfig, Rule, backend, c_kernels, compiler, config, plain, rule
from tests.adapters.dual_lora.reference import RULES

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")

WEIGHT = torch.ones(6, 4)
FACTORS = [torch.ones(2, 4), torch.ones(6, 2)]


def choose(factors: list[Tensor], *others: Tensor, rules: Iterable[Rule] = (Rule(),)) -> Any:
    return backend.choose(rules, factors, *others)


@pytest.fixture
def nothing_loaded() -> Iterator[None]:
    c_kernels.usable.cache_clear()
    c_kernels._library.cache_clear()
    yield
    c_kernels.usable.cache_clear()
    c_kernels._library.cache_clear()


def test_c_computes_on_a_cpu_in_its_precisions_and_torch_the_rest() -> None:
    assert choose(FACTORS, WEIGHT) is c_kernels
    assert choose(FACTORS, WEIGHT.bfloat16()) is c_kernels
    assert choose(FACTORS, WEIGHT.half()) is plain
    assert choose(FACTORS, WEIGHT.double()) is plain
    assert choose([f.double() for f in FACTORS], WEIGHT) is plain
    assert choose(FACTORS, WEIGHT[:0]) is plain
    assert choose([f.to("meta") for f in FACTORS], WEIGHT.to("meta")) is plain


def test_one_can_have_torch_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend.torch_only():
        assert choose(FACTORS, WEIGHT) is plain
    assert choose(FACTORS, WEIGHT) is c_kernels
    monkeypatch.setenv("REPRO_KERNEL", "torch")
    with backend.torch_only():
        pass
    assert choose(FACTORS, WEIGHT) is plain
    monkeypatch.setenv("REPRO_KERNEL", "fortran")
    with pytest.raises(ValueError, match="must be auto or torch"):
        choose(FACTORS, WEIGHT)


def test_triton_computes_on_its_devices_up_to_its_rank(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    triton_kernels = pytest.importorskip("repro.adapters.dual_lora.triton_kernels")
    if device == "cpu":
        monkeypatch.setattr(backend, "TRITON_DEVICES", {"cpu"})
    weight, factors = WEIGHT.to(device), [factor.to(device) for factor in FACTORS]
    assert choose(factors, weight) is triton_kernels
    assert choose(factors, weight.half()) is triton_kernels
    assert choose(factors, weight.double()) is plain
    too_many = [torch.ones(65, 99, device=device), torch.ones(99, 65, device=device)]
    assert choose(too_many, weight) is (c_kernels if device == "cpu" else plain)


# Neither is an activation of the configuration. One has values below 0, which a different path computes.
MADE_UP: dict[str, tuple[Callable[[Tensor], Tensor], plain.Activation]] = {
    "square": (torch.square, plain.Activation(torch.square, lambda P, M: 2 * P)),
    "tanh": (torch.tanh, plain.Activation(torch.tanh, lambda P, M: 1 - M * M, non_negative=False)),
}


@pytest.mark.parametrize("language", ["c", "triton"])
@pytest.mark.parametrize("word", MADE_UP)
def test_torch_computes_a_rule_that_the_kernels_do_not_know(
    word: str, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new activation needs a word and an entry in `plain`. The reference is autograd through a dense dW."""
    kernels: Any = c_kernels
    if language == "triton":
        kernels = pytest.importorskip("repro.adapters.dual_lora.triton_kernels")
        monkeypatch.setattr(backend, "TRITON_DEVICES", {"cpu"})
    function, activation = MADE_UP[word]
    monkeypatch.setitem(config._CHOICES, "magnitude_activation", (word,))
    monkeypatch.setitem(plain._ACTIVATIONS, word, activation)

    def refused(*args: Any) -> None:
        raise AssertionError(f"the {language} kernels were asked for {word}")

    for name in ("updated_weight", "gradients", "backward"):
        monkeypatch.setattr(kernels, name, refused)

    torch.manual_seed(0)
    settings: dict[str, Any] = {"magnitude_activation": word, "clip": "none", "warmup": "none"}
    adapter = DualLoraConfig(magnitude_rank=3, init_std=0.5, target_modules=["0"], **settings)
    model = get_peft_model(nn.Sequential(nn.Linear(20, 12)), adapter)
    layer: Any = model.base_model.model[0]
    assert backend.choose([Rule()], layer.factors("default").values()) is kernels
    assert backend.choose([Rule(), layer.rule["default"]], layer.factors("default").values()) is plain

    factors = layer.factors("default")
    x = torch.randn(5, 20)
    y = model(x)
    found = torch.autograd.grad(y.square().sum(), list(factors.values()))
    A, B, C, D = factors.values()
    sign = torch.where(D @ C > 0, 1.0, -1.0)
    sign = sign + (D @ C - (D @ C).detach())  # straight through
    dense = x @ (layer.base_layer.weight + 2 * function(B @ A) * sign).T + layer.base_layer.bias
    torch.testing.assert_close(y, dense)
    expected = torch.autograd.grad(dense.square().sum(), list(factors.values()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_words_are_those_that_torch_computes_and_the_kernels_are_tested_with() -> None:
    assert tuple(plain._ACTIVATIONS) == rule.ALL_WORDS.magnitude_activation
    for field, words in c_kernels.WORDS._asdict().items():
        assert set(words) == {getattr(tested, field) for tested in RULES.values()}


COMPILES_NOTHING = {
    "no-such-compiler": "cannot be started, No such file",
    "/": "cannot be started, Permission denied",
    "cc -no-such-option": "cc failed: .*no-such-option",
    "cc 'x": "No closing quotation",
    "": "it is empty",
    " ": "it is empty",
    "true": "defines no macros",
    "false": "status 1",
    "yes --": "prints without end",
    "sh -c 'sleep 60 & sleep 60'": "did not end within 1 s",
    "sh -c 'echo \\#define A'": "ends well and writes nothing",
    "{garbage}": "cannot be loaded",
}


@pytest.mark.parametrize(("command", "reason"), COMPILES_NOTHING.items())
def test_without_a_compiler_torch_computes_and_says_so(
    command: str,
    reason: str,
    nothing_loaded: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_text(
        '#!/bin/sh\necho "#define A"; for last; do :; done; [ -f "$last" ] || echo no > "$last"'
    )
    garbage.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", command.format(garbage=garbage))
    if "sleep" in command:
        monkeypatch.setattr(compiler, "_SECONDS", 1)
    with pytest.warns(UserWarning, match=f"computes with torch.*{reason}.*set CC to a C compiler") as warned:
        assert choose(FACTORS, WEIGHT) is plain
    assert "\n" not in str(warned[0].message)
    assert choose(FACTORS, WEIGHT) is plain  # and not once more


def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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


class WithoutMemory(Tensor):
    """A subclass whose memory need not be what its shape says."""


def test_torch_computes_with_subclasses_of_tensor() -> None:
    assert choose(FACTORS, nn.Parameter(WEIGHT)) is c_kernels
    assert choose(FACTORS, WEIGHT.as_subclass(WithoutMemory)) is plain
    assert choose([FACTORS[0].as_subclass(WithoutMemory), FACTORS[1]], WEIGHT) is plain
