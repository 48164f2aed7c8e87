"""One adapted linear layer, forward and backward: the pass of each method, and what is counted of it.

Dual LoRA's gradients need all of G = dL/dΔW, a third matrix product as large as the layer's two others. A
layer with a trainable weight has the same three products and is the lower bound. LoRA needs only two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from peft import HiraConfig, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repro.adapters.dual_lora import DualLoraConfig, backend
from repro.config import Frozen
from repro.runs.measurements import Measurement, Point
from repro.speed.timing import Timer, Times, by_clock, ratio, take_turns

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16 autocast": torch.bfloat16}

Pass = Callable[[], object]


class Shape(Frozen):
    """`tokens` rows through a (d, k) layer, adapted at rank `rank`, or at two of half that.

    Attributes:
        precision: of weights, input and adapters. `bf16 autocast` has a weight and an input in bf16 and
            adapters in fp32, under autocast, as in training; Dual LoRA's factors are always fp32.
    """

    tokens: int
    d: int
    k: int
    rank: int
    precision: Literal["fp32", "bf16", "bf16 autocast"]

    def __str__(self) -> str:
        size = f"d = k = {self.d}" if self.d == self.k else f"d {self.d}, k {self.k}"
        return f"T {self.tokens}, {size}, R {self.rank}, {self.precision}"

    @property
    def tdk(self) -> int:
        """T d k, the multiplications of one of the large products."""
        return self.tokens * self.d * self.k


class _Model(nn.Module):
    """A linear layer inside a model, as peft requires."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.map = nn.Linear(shape.k, shape.d, bias=False, dtype=_DTYPES[shape.precision])

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


FLOOR = "three products"
FROZEN = "frozen"
WITHOUT_KERNELS = "Dual LoRA in torch"
DROPOUT = "LoRA, dropout 0.05"


def adapter_configs(rank: int) -> dict[str, PeftConfig]:
    """Adapters of about equal size."""
    half = rank // 2
    target: dict[str, Any] = {"target_modules": ["map"]}
    return {
        "LoRA": LoraConfig(r=rank, lora_alpha=2 * rank, **target),
        DROPOUT: LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, **target),
        "DoRA": LoraConfig(r=rank, lora_alpha=2 * rank, use_dora=True, **target),
        "HiRA (peft)": HiraConfig(r=rank, **target),
        "Dual LoRA": DualLoraConfig(magnitude_rank=half, direction_rank=half, alpha=rank, **target),
    }


def pass_builders(shape: Shape, device: str = "cpu") -> dict[str, Callable[[], Pass]]:
    """What builds the forward and backward pass of the lower bound, a frozen layer and every adapter.

    They share the values of the weight, of the input and of the gradient of the output.
    """
    # One of its own: a capture that failed can leave the device's generator unusable.
    generator = torch.Generator(device).manual_seed(0)

    def drawn(rows: int, columns: int) -> Tensor:
        values = torch.randn(rows, columns, generator=generator, device=device)
        return values.to(_DTYPES[shape.precision])

    x, upstream = drawn(shape.tokens, shape.k), drawn(shape.tokens, shape.d)
    with torch.device("meta"):
        base = _Model(shape)
    base.map.weight = nn.Parameter(drawn(shape.d, shape.k) / shape.k**0.5)
    autocast = shape.precision == "bf16 autocast"

    def plain(frozen: bool) -> Pass:
        return _pass(copy.deepcopy(base).requires_grad_(not frozen), x, upstream, autocast)

    def adapted(name: str, config: PeftConfig) -> Pass:
        # Outside autocast adapters have the precision of the weight, which is cheapest.
        fp32 = autocast or name == "Dual LoRA"
        model = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=fp32)
        return _pass(model.to(device).train(), x, upstream, autocast)

    builders: dict[str, Callable[[], Pass]] = {FLOOR: partial(plain, False), FROZEN: partial(plain, True)}
    for name, config in adapter_configs(shape.rank).items():
        builders[name] = partial(adapted, name, config)
    return builders


def passes(shape: Shape, device: str = "cpu") -> dict[str, Pass]:
    """Forward and backward pass by name."""
    return {name: build() for name, build in pass_builders(shape, device).items()}


def without_kernels(run: Pass) -> Pass:
    """The same pass, with Dual LoRA computed by torch."""

    def computed_by_torch() -> None:
        with backend.torch_only():
            run()

    return computed_by_torch


def _pass(model: nn.Module, x: Tensor, upstream: Tensor, autocast: bool) -> Pass:
    x = x.clone().requires_grad_()
    parameters = list(model.parameters())
    # As in training: an optimiser that holds the factors ends Dual LoRA's search for who counts its steps.
    torch.optim.SGD(parameters, lr=0.0).step()

    def run() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            y = model(x)
        y.backward(upstream)

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


def counted_flops(run: Pass) -> int:
    """FLOPs of a pass's matrix products, by torch's counter.

    The counter sees only torch's own operations, so the compiled kernels are switched off.
    """
    with backend.torch_only(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# What is said of a shape: one over the other.
RATIOS = (
    ("Dual LoRA", FLOOR),
    ("Dual LoRA", "HiRA (peft)"),
    ("Dual LoRA", "LoRA"),
    (WITHOUT_KERNELS, FLOOR),
)


def ratios(
    times: Mapping[str, Times], at: str, targets: Mapping[tuple[str, str], float], notes: Mapping[str, str]
) -> Iterator[Measurement]:
    """A measurement for each of `RATIOS` that has both times.

    Args:
        targets: upper bounds.
        notes: what is said of a case besides its time.
    """
    for one, other in RATIOS:
        if one in times and other in times:
            yield Measurement(
                name=f"{one} / {other}",
                at=at,
                ratio=ratio(times[one], times[other]),
                target=targets.get((one, other)),
                note=" against ".join(
                    f"{milliseconds(times[name])} ms{notes.get(name, '')}" for name in (one, other)
                ),
            )


def milliseconds(times: Times) -> str:
    """The median to three digits, or whole."""
    median = 1e3 * times.median
    return f"{median:.0f}" if median >= 100 else f"{median:.3g}"


def merged(shape: Shape, rounds: int, device: str = "cpu", timed: Timer = by_clock) -> Measurement:
    """A merged layer relative to a plain one."""
    plain = _Model(shape).to(device).requires_grad_(False)
    adapted = get_peft_model(copy.deepcopy(plain), adapter_configs(shape.rank)["Dual LoRA"])
    plain_again: nn.Module = adapted.merge_and_unload()
    assert type(plain_again.map) is nn.Linear
    x = torch.randn(shape.tokens, shape.k).to(device, _DTYPES[shape.precision])
    with torch.inference_mode():
        cases = {"plain": lambda: plain(x), "merged": lambda: plain_again(x)}
        times = take_turns(cases, rounds=rounds, timed=timed)
    return Measurement(
        name="Dual LoRA merged / plain, forward",
        at=str(shape),
        ratio=ratio(times["merged"], times["plain"]),
        note="both are a torch.nn.Linear",
    )


def point(shape: Shape, name: str, times: Times, kept: int, captured: bool = False) -> Point:
    """A point of the picture."""
    return Point(
        name=name,
        tokens=shape.tokens,
        rank=shape.rank,
        milliseconds=1e3 * times.median,
        kept_mib=kept / 2**20,
        d=shape.d,
        k=shape.k,
        precision=shape.precision,
        captured=captured,
    )
