"""What is published about a GPU, one YAML file each under `experiments/gpus/`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from repro.config import Frozen, load_named, names_in
from repro.paths import EXPERIMENTS


class Gpu(Frozen):
    """A GPU that costs are estimated for.

    Attributes:
        title: its full name.
        device: what its name in a result's hardware contains.
        memory_gib: what a program can have of it, in GiB.
        peak_tflops: dense matrix products, 10^12 floating-point operations a second, by a training's
            `precision`: bf16 on the tensor cores; fp32 beside them, since nothing here allows TF32.
    """

    name: str
    title: str
    device: str
    memory_gib: float = Field(gt=0)
    peak_tflops: dict[Literal["bf16", "fp32"], float]


def list_gpus(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all described GPUs."""
    return names_in(experiments / "gpus")


def load_gpu(name: str, experiments: Path = EXPERIMENTS) -> Gpu:
    """Read a GPU's description.

    Raises:
        ConfigError: there is no such GPU, or its file is wrong.
    """
    return load_named("GPU", name, experiments / "gpus", Gpu)
