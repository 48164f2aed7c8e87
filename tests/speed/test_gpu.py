"""The bench of a GPU, in its small form on the CPU: only events, graphs and nvidia-smi are replaced."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from repro.analysis.ledger import load_ledger
from repro.report.speed import draw_speed, speed_table, write_speed
from repro.runs.measurements import Card, Measured, Measurement, Point, read_speed, usable_speeds
from repro.speed import card, gpu_layer, gpu_step, graphs, suite, timing
from repro.speed.conditions import Conditions
from repro.speed.layer import FLOOR, WITHOUT_KERNELS

SMALL = Conditions(small=True)
CARD = Card(name="NVIDIA H200", memory_gib=140.0, driver="570.1", clock_mhz=1980, power_limit_watts=700.0)


@pytest.fixture(scope="module")
def measured() -> Measured:
    """All parts but the training, which `test_figures` has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "card", lambda: CARD)
        patch.setattr(suite, "_IN_TORCH", {"gpu": "cpu"})
        patch.setattr(gpu_layer, "_LONG", 48)  # of the small shapes, the second
        return suite.measure(
            ["layer", "step", "workstation", "inference", "graphs"], small=True, device="gpu"
        )


def test_every_part_of_a_gpu_is_measured(measured: Measured) -> None:
    assert measured.left_out == ("step, Liger: not installed", "step, Unsloth: not installed")
    names = {figure.name for figure in measured.figures}
    assert names >= {
        name for claim in load_ledger().claims if claim.overhead for name in claim.overhead.ratios
    }
    targets = {figure.name: figure.target for figure in measured.figures if figure.target is not None}
    assert targets == {
        "Dual LoRA / three products": 1.1,
        "Dual LoRA / LoRA: a training step": 1.36,
        "Dual LoRA / LoRA, dropout 0.05: a training step": 1.05,
        "HiRA / Dual LoRA: a training step": 1.15,
        "DoRA / Dual LoRA: a training step": 1.25,
        "Dual LoRA / LoRA: peak memory of a step": 1.0,
        "Dual LoRA, checkpointing / LoRA, checkpointing: a training step": 1.22,
        "Dual LoRA, checkpointing / LoRA, checkpointing: peak memory of a step": 1.05,
        "the workstation profile's run: optimiser steps a second / its bound of 30": 1.0,
        "the workstation profile's run, extrapolated: seconds / its bound of 30": 1.0,
    }
    floor = [f for f in measured.figures if f.name == "Dual LoRA / three products" and f.target is not None]
    size = "T 48, d 64, k 96, R 4, bf16 autocast"  # only there the target is the floor's
    assert [f.at for f in floor] == [size, f"{size}, captured in a CUDA graph"]
    assert measured.environment.hardware and measured.device == "gpu"


def test_its_layers_are_read_twice_and_drawn(measured: Measured, tmp_path: Path) -> None:
    methods = [FLOOR, "LoRA", "LoRA, dropout 0.05", "DoRA", "HiRA (peft)", "Dual LoRA", WITHOUT_KERNELS]
    for captured in (False, True):
        found = [p.name for p in measured.points if p.captured == captured and p.tokens == 32]
        assert found == methods
    assert all((p.kept_mib > 0) != p.captured for p in measured.points)
    table = speed_table(measured)
    assert "On NVIDIA H200 (140 GiB, driver 570.1, clock 1980 MHz after the work, power limit 700 W)" in table
    assert "| d x k | three products | LoRA | LoRA, dropout 0.05 |" in table
    assert "| 64 x 96, T 32, R 4, captured |" in table
    assert "- step, Liger: not installed" in table
    written = [*write_speed(measured, tmp_path), *draw_speed(measured, tmp_path)]
    assert [path.name for path in written] == [
        f"one-nvidia-h200.{end}" for end in ("json", "md", "png", "svg")
    ]
    assert read_speed(written[0]) == measured and usable_speeds(tmp_path) == [measured]


def test_what_cannot_be_captured_is_named_once_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    place = count()

    def captured(run: Callable[[], object], device: str) -> Callable[[], object]:
        if next(place) == 3:  # the fourth method
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        return run

    monkeypatch.setattr(gpu_layer, "captured", captured)
    found = list(gpu_layer.captured_figures(SMALL))
    assert [line for line in found if isinstance(line, str)] == [
        "layer, DoRA, T 32, d 64, k 96, R 4, bf16 autocast, captured in a CUDA graph: failed: RuntimeError: "
        "CUDA error: operation not permitted when stream is capturing"
    ]
    assert sum(isinstance(point, Point) for point in found) == 2 * 6
    assert next(place) == 7 + 6  # captures that were tried


def test_a_method_that_fails_stops_no_other_and_liger_is_measured_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attach(self: Any, *arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    patched: list[str] = []
    liger = SimpleNamespace(apply_liger_kernel_to_llama=lambda model: patched.append(type(model).__name__))
    monkeypatch.setattr("repro.methods.hira.HiRA.attach", attach)
    monkeypatch.setattr(gpu_step, "find_spec", lambda name: name == "liger_kernel" or None)
    monkeypatch.setattr(gpu_step, "import_module", lambda name: liger)
    monkeypatch.setattr(gpu_step, "version", lambda name: "0.8.5")
    found = list(gpu_step.figures(SMALL))
    assert [line for line in found if isinstance(line, str)] == [
        "step, HiRA: failed: OutOfMemoryError: CUDA out of memory. Tried to allocate",
        "step, Unsloth: not installed",
    ]
    measured = [figure for figure in found if isinstance(figure, Measurement)]
    names = [figure.name for figure in measured]
    assert "DoRA / Dual LoRA: a training step" in names and not any("HiRA" in name for name in names)
    assert patched == ["LlamaForCausalLM"] * 2
    assert names[-2:] == [
        "Dual LoRA with Liger / LoRA with Liger: a training step",
        "LoRA with Liger / LoRA: a training step",
    ]
    assert all(figure.at.endswith("liger-kernel 0.8.5") for figure in measured[-2:])


def test_methods_take_turns_on_the_same_weights_and_give_what_one_alone_gives() -> None:
    llama = gpu_step._SMALL
    base = llama.build("cpu")
    texts = torch.randint(10, llama.vocabulary, (llama.texts, llama.tokens))
    lora, dual = (gpu_step.Step(base, llama.methods()[name], texts) for name in ("LoRA", "Dual LoRA"))
    with torch.autocast("cpu", torch.bfloat16):
        loss = lora.model(input_ids=texts, labels=texts).loss
        alone = base(input_ids=texts, labels=texts).loss  # LoRA's update starts as zero
    assert float(loss.detach()) == pytest.approx(float(alone))
    before = {name: tensor.clone() for name, tensor in base.named_parameters()}
    for step in (lora, dual):
        frozen = {p.data_ptr() for p in step.model.parameters() if not p.requires_grad}
        assert frozen == {p.data_ptr() for p in base.parameters()}
        step()
    assert all(torch.equal(before[name], tensor) for name, tensor in base.named_parameters())
    config = LoraConfig(r=llama.rank, lora_alpha=2 * llama.rank, target_modules=list(gpu_step._TARGETS))
    sizes = [
        sum(p.numel() for p in model.parameters() if p.requires_grad)
        for model in (lora.model, dual.model, get_peft_model(base, config))
    ]
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_model_as_large_as_the_memory_takes() -> None:
    assert gpu_step.fitting(139.0) == gpu_step.fitting(70.0) == gpu_step.Llama()
    assert str(gpu_step.Llama()).startswith("LLaMA-7B of random weights, 16 x 272 tokens, R 32")
    smaller = gpu_step.fitting(46.0)
    assert smaller == gpu_step.Llama(blocks=25)
    assert str(smaller).startswith("LLaMA of width 4096 with 25 blocks of random weights")
    assert gpu_step.fitting(8.0) is None


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * 2**30, 8 * 2**30))
    (line,) = gpu_step.figures(Conditions(device="cuda"))
    assert line == (
        "step: not measured: 8 GiB of the GPU's memory are free; LLaMA-7B needs 58, and 4 of its 32 blocks 9"
    )


def test_a_gpu_is_timed_by_events_around_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait for the event")

        def elapsed_time(self, end: Event) -> float:
            return 2.5  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert timing.timer("cuda")(lambda: calls.append("call")) == 0.0025
    assert calls == ["record", "call", "record", "wait for the event"]
    assert timing.timer("cpu") is timing.by_clock


def test_a_pass_is_captured_after_a_warm_up_on_a_side_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Scope:
        def __init__(self, what: Any) -> None:
            self.what = what

        def __enter__(self) -> None:
            calls.append(f"enter {self.what}")

        def __exit__(self, *error: Any) -> None:
            calls.append(f"leave {self.what}")

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            calls.append(f"{self} waits for {other}")

        def __str__(self) -> str:
            return self.name

    class CUDAGraph:
        def replay(self) -> None:
            calls.append("replay")

        def __str__(self) -> str:
            return "graph"

    for name, fake in {"Stream": Stream, "CUDAGraph": CUDAGraph, "stream": Scope, "graph": Scope}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    replay = graphs.captured(lambda: calls.append("run"), "cuda")
    assert calls == [
        "side waits for main", "enter side", "run", "run", "run", "leave side", "main waits for side",
        "enter graph", "run", "leave graph",
    ]  # fmt: skip
    calls.clear()
    replay()
    assert calls == ["replay"]


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        ("570.86.10, 1980, 1980, 2619, 700.00\n", ("570.86.10", 1980, 1980, 2619, 700.0)),
        ("570.86.10, [N/A], 1980, [N/A], [N/A]\n", ("570.86.10", None, 1980, None, None)),
        ("No devices were found\n", (None,) * 5),
        (None, (None,) * 5),
    ],
)
def test_the_card_and_its_clocks_are_named(
    answer: str | None, known: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        if answer is None:
            raise FileNotFoundError("nvidia-smi")
        return subprocess.CompletedProcess(command, 0, stdout=answer)

    properties = SimpleNamespace(name="NVIDIA H200", total_memory=140 * 2**30, uuid="1234-56")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(card.subprocess, "run", run)
    found = card.card()
    assert (found.name, found.memory_gib) == ("NVIDIA H200", 140)
    assert (
        found.driver,
        found.clock_mhz,
        found.most_clock_mhz,
        found.memory_clock_mhz,
        found.power_limit_watts,
    ) == known
    assert asked[0][:2] == ["nvidia-smi", "--id=GPU-1234-56"]
