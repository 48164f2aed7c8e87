"""One adapted linear layer, forward and backward, compared with the matrix products that it requires.

Dual LoRA's gradients need all of G = dL/dΔW, a third matrix product as large as the layer's two others. A
layer with a trainable weight has the same three products and is the lower bound. LoRA needs only two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import HiraConfig, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repro.adapters.dual_lora import DualLoraConfig, backend
from repro.config import Frozen
from repro.runs.measurements import Measurement, Point
from repro.speed.timing import ratio, take_turns

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Shape(Frozen):
    """`tokens` rows through a (`width`, `width`) layer, adapted at rank `rank`, or at two of half that."""

    tokens: int
    width: int
    rank: int
    precision: str

    def __str__(self) -> str:
        return f"T {self.tokens}, d = k = {self.width}, R {self.rank}, {self.precision}"


_SHAPES = [
    Shape(tokens=1024, width=width, rank=32, precision=precision)
    for precision in _DTYPES
    for width in (2048, 4096)
]
_SMALL = [Shape(tokens=32, width=64, rank=4, precision="fp32")]
_MIDDLE = Shape(tokens=1024, width=2048, rank=32, precision="fp32")


class _Model(nn.Module):
    """A linear layer inside a model, as peft requires."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.map = nn.Linear(shape.width, shape.width, bias=False, dtype=_DTYPES[shape.precision])

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


def adapter_configs(rank: int) -> dict[str, PeftConfig]:
    """Adapters of about equal size, without dropout."""
    half = rank // 2
    target: dict[str, Any] = {"target_modules": ["map"]}
    return {
        "LoRA": LoraConfig(r=rank, lora_alpha=2 * rank, **target),
        "DoRA": LoraConfig(r=rank, lora_alpha=2 * rank, use_dora=True, **target),
        "HiRA (peft)": HiraConfig(r=rank, **target),
        "Dual LoRA": DualLoraConfig(magnitude_rank=half, direction_rank=half, alpha=rank, **target),
    }


FLOOR = "three products"
WITHOUT_KERNELS = "Dual LoRA in torch"


def passes(shape: Shape) -> dict[str, Callable[[], None]]:
    """Forward and backward pass by name: of the lower bound, of a frozen layer and of every adapter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.tokens, shape.width, generator=generator).to(_DTYPES[shape.precision])
    upstream = torch.randn(shape.tokens, shape.width, generator=generator).to(x.dtype)
    base = _Model(shape)
    models: dict[str, nn.Module] = {FLOOR: copy.deepcopy(base), "frozen": copy.deepcopy(base)}
    models["frozen"].requires_grad_(False)
    for name, config in adapter_configs(shape.rank).items():
        # Adapters have the precision of the weight, which is cheapest; Dual LoRA's factors are always fp32.
        wrapped = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=name == "Dual LoRA")
        models[name] = wrapped.train()
    return {name: _pass(model, x, upstream) for name, model in models.items()}


def _without_kernels(run: Callable[[], None]) -> Callable[[], None]:
    def computed_by_torch() -> None:
        with backend.torch_only():
            run()

    return computed_by_torch


def _pass(model: nn.Module, x: Tensor, upstream: Tensor) -> Callable[[], None]:
    x = x.clone().requires_grad_()

    def run() -> None:
        x.grad = None
        for parameter in model.parameters():
            parameter.grad = None
        model(x).backward(upstream)

    return run


def kept_bytes(run: Callable[[], Any]) -> int:
    """Bytes of the tensors saved for the backward pass, each storage counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


def counted_flops(run: Callable[[], None]) -> int:
    """FLOPs of a pass's matrix products, by torch's counter.

    The counter sees only torch's own operations, so the compiled kernels are switched off.
    """
    with backend.torch_only(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def figures(small: bool = False) -> Iterator[Measurement]:
    """Dual LoRA relative to the lower bound, peft's HiRA and LoRA; merged, relative to the plain layer."""
    rounds = 2 if small else 15
    for shape in _SMALL if small else _SHAPES:
        every = passes(shape)
        cases = {name: every[name] for name in (FLOOR, "LoRA", "HiRA (peft)", "Dual LoRA")}
        cases[WITHOUT_KERNELS] = _without_kernels(cases["Dual LoRA"])
        tdk = shape.tokens * shape.width**2
        flops = {name: counted_flops(run) / tdk for name, run in cases.items()}
        times = take_turns(cases, rounds=rounds)
        for one, other, target in (
            ("Dual LoRA", FLOOR, 1.12),
            ("Dual LoRA", "HiRA (peft)", 1.0),
            ("Dual LoRA", "LoRA", None),
            (WITHOUT_KERNELS, FLOOR, None),
        ):
            yield Measurement(
                name=f"{one} / {other}",
                at=str(shape),
                ratio=ratio(times[one], times[other]),
                target=target,
                note=" against ".join(
                    f"{1e3 * times[name].median:.0f} ms, {flops[name]:.2f} T d k counted"
                    for name in (one, other)
                ),
            )
        yield _merged(shape, rounds)


def _merged(shape: Shape, rounds: int) -> Measurement:
    plain = _Model(shape).requires_grad_(False)
    adapted = get_peft_model(copy.deepcopy(plain), adapter_configs(shape.rank)["Dual LoRA"])
    merged: nn.Module = adapted.merge_and_unload()
    x = torch.randn(shape.tokens, shape.width).to(_DTYPES[shape.precision])
    with torch.inference_mode():
        times = take_turns({"plain": lambda: plain(x), "merged": lambda: merged(x)}, rounds=rounds)
    assert type(merged.map) is nn.Linear
    return Measurement(
        name="Dual LoRA merged / plain, forward",
        at=str(shape),
        ratio=ratio(times["merged"], times["plain"]),
        note="both are a torch.nn.Linear",
    )


def points(small: bool = False) -> Iterator[Point]:
    """Time and saved memory of every adapter and of the lower bound, over tokens and over ranks."""
    along = [_MIDDLE.model_copy(update={"tokens": tokens}) for tokens in (256, 512, 2048)]
    along += [_MIDDLE.model_copy(update={"rank": rank}) for rank in (8, 16, 64)]
    for shape in _SMALL if small else [_MIDDLE, *along]:
        cases = passes(shape)
        times = take_turns(cases, rounds=2 if small else 5)
        for name, run in cases.items():
            yield Point(
                name=name,
                tokens=shape.tokens,
                rank=shape.rank,
                milliseconds=1e3 * times[name].median,
                kept_mib=kept_bytes(run) / 2**20,
            )
