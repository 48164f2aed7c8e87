"""All that `repro bench` measures, in the order of its table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from repro.bench import evaluation, generation, layer, ranks, startup, step, training
from repro.bench.record import Figure, Measured, Point
from repro.config import ConfigError
from repro.study.environment import environment

# Part by part: figures in full size, and in a small one that takes a second, for tests.
PARTS: Mapping[str, Callable[[bool], Iterator[Figure]]] = {
    "layer": lambda small: layer.figures(layer.SMALL if small else layer.SHAPES, rounds=2 if small else 7),
    "step": lambda small: step.figures("smoke" if small else "laptop", rounds=2 if small else 5),
    "training": training.figures,
    "evaluation": evaluation.figures,
    "generation": generation.figures,
    "ranks": ranks.figures,
    "startup": startup.figures,
}


def measure(only: Sequence[str] | None = None, *, small: bool = False) -> Measured:
    """Measure these parts, or all. Says on stderr what it is at.

    Raises:
        ConfigError: there is no such part.
    """
    unknown = sorted(set(only or ()) - PARTS.keys())
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no part of the benchmark; there are {', '.join(PARTS)}")
    figures: list[Figure] = []
    for name, part in PARTS.items():
        if only is None or name in only:
            for figure in part(small):
                print(f"{name}: {figure.name}, {figure.at}: {figure.ratio.median:.2f}", file=sys.stderr)
                figures.append(figure)
    points = tuple(_points(small)) if only is None or "layer" in only else ()
    return Measured(figures=tuple(figures), points=points, environment=environment())


def _points(small: bool) -> Iterator[Point]:
    """A layer's time and memory along the tokens and along the rank."""
    if small:
        return layer.points(layer.SMALL, rounds=2)
    middle = layer.Shape(tokens=1024, width=2048, rank=32, precision="fp32")
    along = [middle.model_copy(update={"tokens": tokens}) for tokens in (256, 512, 2048)]
    along += [middle.model_copy(update={"rank": rank}) for rank in (8, 16, 64)]
    return layer.points([middle, *along], rounds=5)
