"""How the C library gives memory to tensors on a CPU."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Reuse the memory of freed tensors, instead of returning it to the system; nothing without glibc.

    By default glibc asks the system for each large tensor and gives it back afterwards, so that every pass
    faults in all of its pages anew: 340,000 faults, 1.2 of 5.9 CPU seconds, in a step of LoRA on
    SmolLM2-135M in bf16 with 15 texts of 90 tokens. The process stays as large as it once was, 8 % larger.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if set_option is not None:
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, _LARGEST)
