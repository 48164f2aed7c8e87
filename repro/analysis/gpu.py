"""What is published about a GPU, one YAML file each under `experiments/gpus/`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from repro.config import ConfigError, Frozen, load_yaml, one_of
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
    return sorted(path.stem for path in (experiments / "gpus").glob("*.yaml"))


def load_gpu(name: str, experiments: Path = EXPERIMENTS) -> Gpu:
    """Read a GPU's description.

    Raises:
        ConfigError: there is no such GPU, or its file is wrong.
    """
    if name not in list_gpus(experiments):
        raise ConfigError(one_of("GPU", name, list_gpus(experiments)))
    return load_yaml(experiments / "gpus" / f"{name}.yaml", Gpu)
