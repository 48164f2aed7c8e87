"""One adapted linear layer of LLaMA on a GPU, in bf16 autocast with factors in fp32.

Two readings. Eager, as a user calls it: Python and launches count where the GPU waits for them. And captured
in a CUDA graph: the GPU's own work, which is what is left where a whole step is captured or compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from repro.speed.budget import Budget, OutOfTime
from repro.speed.conditions import Conditions, Found, failed, release
from repro.speed.graphs import captured
from repro.speed.layer import (
    FLOOR,
    FROZEN,
    WITHOUT_KERNELS,
    Pass,
    Shape,
    kept_bytes,
    merged,
    pass_builders,
    point,
    ratios,
    without_kernels,
)
from repro.speed.timing import take_turns, timer

# Where the factors' products are small beside the three large ones: 16 texts of 272 tokens.
_LONG = 4352
_TARGET = 1.1
_ROUNDS, _WARM_UP = 30, 3
# Seconds that the rounds of a shape share. What the kernels need to be compiled is not in it.
_SECONDS = 3.0


def _shape(d: int, k: int, tokens: int, rank: int) -> Shape:
    return Shape(tokens=tokens, d=d, k=k, rank=rank, precision="bf16 autocast")


# LLaMA-7B's maps, and the smaller key and value maps of Llama 3. The first is the middle of the picture.
_SHAPES = [
    _shape(4096, 4096, _LONG, 32),
    _shape(11008, 4096, _LONG, 32),
    _shape(4096, 11008, _LONG, 32),
    _shape(1024, 4096, _LONG, 32),
    _shape(4096, 4096, 1024, 32),
    _shape(4096, 4096, 16384, 32),
    _shape(4096, 4096, _LONG, 64),
]
_SMALL = [_shape(64, 96, 32, 4), _shape(64, 96, 48, 4)]


def figures(conditions: Conditions) -> Iterator[Found]:
    """Dual LoRA, eager, relative to the lower bound, HiRA and LoRA; and what each method takes and keeps."""
    shapes = _SMALL if conditions.small else _SHAPES
    yield from _each(conditions, shapes, "")
    try:
        rounds = 2 if conditions.small else _ROUNDS
        yield merged(shapes[0], rounds, conditions.device, timer(conditions.device))
    except Exception as error:
        yield failed(f"layer, merged, {shapes[0]}", error)


def captured_figures(conditions: Conditions) -> Iterator[Found]:
    """The same passes, each captured in a CUDA graph; what cannot be captured is named and left out."""
    yield from _each(conditions, _SMALL if conditions.small else _SHAPES, ", captured in a CUDA graph")


def _each(conditions: Conditions, shapes: list[Shape], reading: str) -> Iterator[Found]:
    """A failure at one shape, of one method, or of its capture leaves the others as they are."""
    refused: set[str] = set()
    for shape in shapes:
        at = f"{shape}{reading}"
        cases: dict[str, Pass] = {}
        run: Pass | None = None
        try:
            conditions.budget.check(0)
            for name, build in _builders(shape, conditions.device).items():
                if name in refused:
                    continue
                try:
                    run = build()
                    run()  # what cannot be computed fails here, and not among the rounds
                    cases[name] = captured(run, conditions.device) if reading else run
                except Exception as error:
                    yield failed(f"layer, {name}, {at}", error)
                    if reading:  # it would fail at every shape
                        refused.add(name)
            times = take_turns(
                cases,
                rounds=2 if conditions.small else _ROUNDS,
                warm_up=_WARM_UP,
                budget=Budget(_SECONDS, conditions.budget.most, conditions.budget.clock),
                timed=timer(conditions.device),
            )
            targets = {("Dual LoRA", FLOOR): _TARGET} if shape.tokens >= _LONG else {}
            yield from ratios(times, at, targets, {})
            for name, run in cases.items():
                kept = 0 if reading else kept_bytes(run)
                yield point(shape, name, times[name], kept, captured=bool(reading))
        except OutOfTime as error:
            yield f"layer, {at}: not measured: {error}"
        except Exception as error:
            yield failed(f"layer, {at}", error)
        cases.clear()
        run = None
        release()


def _builders(shape: Shape, device: str) -> dict[str, Callable[[], Pass]]:
    builders = pass_builders(shape, device)
    del builders[FROZEN]
    dual = builders["Dual LoRA"]
    return builders | {WITHOUT_KERNELS: lambda: without_kernels(dual())}
