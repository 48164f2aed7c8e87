"""The GPU as torch and its driver describe it."""

from __future__ import annotations

import subprocess

import torch

from repro.runs.measurements import Card

_QUERY = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


def card() -> Card:
    """The GPU that this process uses, with its clocks now. Without nvidia-smi only what torch knows."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver, *numbers = _asked(str(properties.uuid).removeprefix("GPU-"))
    clock, most, memory, power = map(_number, numbers)
    return Card(
        name=properties.name,
        memory_gib=properties.total_memory / 2**30,
        driver=driver or None,
        clock_mhz=None if clock is None else round(clock),
        most_clock_mhz=None if most is None else round(most),
        memory_clock_mhz=None if memory is None else round(memory),
        power_limit_watts=power,
    )


def _asked(uuid: str) -> list[str]:
    """The answers of nvidia-smi, empty where it has none."""
    # torch and nvidia-smi count the cards differently; the UUID is the same.
    command = [
        "nvidia-smi",
        f"--id=GPU-{uuid}",
        f"--query-gpu={','.join(_QUERY)}",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return [""] * len(_QUERY)
    answers = [answer.strip() for answer in done.stdout.strip().split(",")]
    return answers if len(answers) == len(_QUERY) else [""] * len(_QUERY)


def _number(answer: str) -> float | None:
    """An answer such as `1980`; None for `[N/A]`."""
    try:
        return float(answer)
    except ValueError:
        return None
