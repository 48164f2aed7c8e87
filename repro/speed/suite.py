"""All parts of `repro bench`, in the order of its table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from repro.config import ConfigError, one_of
from repro.runs.environment import environment
from repro.runs.measurements import Measured, Measurement
from repro.speed import evaluation, generation, layer, ranks, startup, step, training

# Each part yields measurements at full size, or (True) at a small size that takes seconds, for tests.
PARTS: Mapping[str, Callable[[bool], Iterator[Measurement]]] = {
    "layer": layer.figures,
    "step": step.figures,
    "training": training.figures,
    "evaluation": evaluation.figures,
    "generation": generation.figures,
    "ranks": ranks.figures,
    "startup": startup.figures,
}


def measure(only: Sequence[str] | None = None, *, small: bool = False) -> Measured:
    """Measure these parts, or all of them. Progress goes to stderr.

    A part whose dependency is not installed, such as lm-eval for evaluation, is skipped with a message.

    Raises:
        ConfigError: there is no such part.
    """
    unknown = sorted(set(only or ()) - PARTS.keys())
    if unknown:
        raise ConfigError(one_of("part of the benchmark", unknown[0], PARTS))
    figures: list[Measurement] = []
    for name, part in PARTS.items():
        if only is not None and name not in only:
            continue
        try:
            for figure in part(small):
                print(f"{name}: {figure.name}, {figure.at}: {figure.ratio.median:.2f}", file=sys.stderr)
                figures.append(figure)
        except ConfigError as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
    points = tuple(layer.points(small)) if only is None or "layer" in only else ()
    return Measured(figures=tuple(figures), points=points, environment=environment())
