"""Published data of GPUs, one YAML file each under `experiments/gpus/`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from repro.config import Frozen, load_named, names_in
from repro.paths import EXPERIMENTS


class Gpu(Frozen):
    """A GPU that costs are estimated for.

    Attributes:
        title: full name.
        device: text that a result's hardware name contains if it ran on this GPU.
        memory_gib: memory available to a program, in GiB.
        peak_tflops: peak TFLOP/s of dense matrix products by training precision: bf16 on tensor cores, fp32
            without them, since this project does not enable TF32.
        bandwidth_tbs: peak bandwidth of its memory, in TB/s.
    """

    name: str
    title: str
    device: str
    memory_gib: float = Field(gt=0)
    peak_tflops: dict[Literal["bf16", "fp32"], float]
    bandwidth_tbs: float = Field(gt=0)

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30


def list_gpus(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all described GPUs."""
    return names_in(experiments / "gpus")


def load_gpu(name: str, experiments: Path = EXPERIMENTS) -> Gpu:
    """Read a GPU's description.

    Raises:
        ConfigError: there is no such GPU, or its file is invalid.
    """
    return load_named("GPU", name, experiments / "gpus", Gpu)
