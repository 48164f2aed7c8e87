"""All parts of `repro bench`, in the order of its table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from repro.config import ConfigError, one_of
from repro.runs.environment import environment, processor
from repro.runs.measurements import Card, Device, Measured, Measurement, Point
from repro.speed import (
    cpu_layer,
    evaluation,
    generation,
    gpu_layer,
    gpu_step,
    inference,
    ranks,
    startup,
    step,
    training,
    workstation,
)
from repro.speed.budget import Budget, OutOfTime, TimeUp, alarm
from repro.speed.card import card
from repro.speed.conditions import Conditions, Found, failed, release


class Part(NamedTuple):
    """A part and its share of the time: about the seconds that it takes where all rounds fit.

    Inference takes three times its share for all of its rounds, which only a longer bench has time for.
    """

    figures: Callable[[Conditions], Iterator[Found]]
    share: float


# The claims need the first ones most. What is measured last is left out first where the time ends.
PARTS: Mapping[Device, Mapping[str, Part]] = {
    "cpu": {
        "layer": Part(cpu_layer.figures, 150),
        "step": Part(step.figures, 120),
        "inference": Part(inference.figures, 160),
        "training": Part(training.figures, 60),
        "evaluation": Part(evaluation.figures, 50),
        "startup": Part(startup.figures, 45),
        "ranks": Part(ranks.figures, 15),
        "generation": Part(generation.figures, 110),
    },
    "gpu": {
        "layer": Part(gpu_layer.figures, 60),
        "step": Part(gpu_step.figures, 110),
        "training": Part(training.figures, 40),
        "workstation": Part(workstation.figures, 50),
        "inference": Part(inference.figures, 10),
        # Last, since a capture that fails can leave the process unfit for what follows.
        "graphs": Part(gpu_layer.captured_figures, 40),
    },
}

_IN_TORCH: Mapping[Device, str] = {"cpu": "cpu", "gpu": "cuda"}
_MINUTES: Mapping[Device, float] = {"cpu": 10.0, "gpu": 5.0}
# A part may take so many times its share: on a slow machine the first are measured and the last left out.
# Otherwise the time of each would be up before it had anything.
_STRETCH = 4.0
# Of the time that is given; the rest is for what an alarm cannot interrupt, and for writing.
_MEASURING = 0.9


def chosen_device(asked: str | None) -> Device:
    """The device to measure: a GPU if there is one, unless the CPU is asked for.

    Raises:
        ConfigError: it is unknown, or there is no GPU.
    """
    there = torch.cuda.is_available()
    if asked is None:
        return "gpu" if there else "cpu"
    if asked not in PARTS:
        raise ConfigError(one_of("device", asked, PARTS))
    if asked == "gpu" and not there:
        raise ConfigError("device 'gpu': torch finds no GPU here; leave --device out, or give --device cpu")
    return "cpu" if asked == "cpu" else "gpu"


def measuring_time(minutes: float | None, device: Device, started: float) -> Budget:
    """The budget of a bench that is to be over so many minutes (None: the device's) after `started`.

    Args:
        started: by `time.monotonic`.
    """
    return Budget(60 * _MEASURING * (minutes or _MINUTES[device]) - (time.monotonic() - started))


def measure(
    only: Sequence[str] | None = None,
    *,
    small: bool = False,
    device: Device = "cpu",
    budget: Budget | None = None,
    keep: Callable[[Measured], object] = lambda measured: None,
) -> Measured:
    """Measure these parts, or all of them. Progress goes to stderr.

    What cannot be measured (a package is not installed, a case fails, its time is up) is named, and stops
    nothing else.

    Args:
        budget: the time for all of them; None for no limit.
        keep: is given what there is after every measurement.

    Raises:
        ConfigError: there is no such part.
    """
    parts = PARTS[device]
    unknown = sorted(set(only or ()) - parts.keys())
    if unknown:
        raise ConfigError(one_of("part of the benchmark", unknown[0], parts))
    sheet = _Sheet(device, keep)
    shares = {name: part.share for name, part in parts.items() if only is None or name in only}
    for name, own in (budget or Budget()).shared(shares, _STRETCH):
        conditions = Conditions(small, _IN_TORCH[device], own)
        try:
            own.check(0)
            with alarm(own.most):
                for found in parts[name].figures(conditions):
                    sheet.add(name, found)
        except (OutOfTime, ConfigError) as error:
            sheet.add(name, f"{name}: not measured: {error}")
        except TimeUp:
            sheet.add(name, f"{name}: not measured to its end: its time was up")
        except Exception as error:
            sheet.add(name, failed(name, error))
        release()
        sheet.look_at_the_card()
    return sheet.measured


class _Sheet:
    """What has been found so far."""

    def __init__(self, device: Device, keep: Callable[[Measured], object]) -> None:
        self._device, self._keep = device, keep
        self._figures: list[Measurement] = []
        self._points: list[Point] = []
        self._left_out: list[str] = []
        self._card: Card | None = None
        self.look_at_the_card()

    @property
    def measured(self) -> Measured:
        where = environment()
        if self._device == "cpu":  # also on a machine with a GPU
            where = where.model_copy(update={"hardware": processor()})
        return Measured(
            figures=tuple(self._figures),
            points=tuple(self._points),
            environment=where,
            card=self._card,
            left_out=tuple(self._left_out),
        )

    def add(self, part: str, found: Found) -> None:
        """Keep what a part gave, and tell it."""
        match found:
            case Measurement():
                self._figures.append(found)
                print(f"{part}: {found.name}, {found.at}: {found.ratio.median:.2f}", file=sys.stderr)
            case Point():
                self._points.append(found)
                return  # the ratios of its shape are kept already, and it is with whatever follows
            case _:
                self._left_out.append(found)
                print(found, file=sys.stderr)
        self._keep(self.measured)

    def look_at_the_card(self) -> None:
        """Read the card's clocks, which after a part are those of its work."""
        if self._device == "gpu":
            self._card = card()
