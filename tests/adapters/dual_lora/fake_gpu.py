"""A process in which Triton compiles for an H100 that is not there. Its launches are recorded, not made.

    python -m tests.adapters.dual_lora.fake_gpu compile|launch

prints what the tests of `test_triton_compiled.py` and `test_triton_launch.py` look at, as JSON. A process of
its own: Triton reads TRITON_INTERPRET, which all other tests set, as it is imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from repro.adapters.dual_lora import Rule, Update, triton_kernels, triton_launch

SHAPE = 512, 512
launched: list[tuple[str, tuple[int, ...], tuple[Any, ...]]] = []


class Launcher:
    """What the driver makes of a compiled kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(
        self,
        x: int,
        y: int,
        z: int,
        stream: int,
        function: Any,
        packed: Any,
        metadata: Any,
        enter: Any,
        leave: Any,
        *arguments: Any,
    ) -> None:
        launched.append((self.name, (x, y, z), arguments))


class Driver:
    """An H100: compute capability 9.0."""

    launcher_cls = Launcher
    utils = SimpleNamespace(
        load_binary=lambda *_: (object(), 1, 0, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 232448},
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def update(ranks: tuple[int, int]) -> Update:
    d, k = SHAPE
    factors = [torch.zeros(shape) for r in ranks for shape in ((r, k), (d, r))]
    return Update(Rule(), 1.5, *factors, step=torch.zeros((), dtype=torch.int64), warmup_steps=100)


def compiled(kernel: Any) -> dict[str, Any]:
    """Of a kernel's code: products by the dtype of their factors, instructions by kind, bytes spilled."""
    products: Counter[str] = Counter()
    for line in kernel.asm["ttgir"].splitlines():
        if "tt.dot " in line or "warp_group_dot " in line:
            products.update(re.findall(r"x(bf16|f32)", line.split(":")[-1])[:1])
    mma = Counter(re.findall(r"(?:mma\.sync|wgmma\.mma_async)\.\S*?\.(bf16|tf32|f16)\.", kernel.asm["ptx"]))
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "products": products,
        "mma": mma,
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
        "shared": kernel.metadata.shared,
    }


def compile_kernels() -> dict[str, Any]:
    """Both kernels of tiles for several ranks and dtypes."""
    found = {}
    kept: list[Any] = []
    run = JITFunction.run

    def keep(self: Any, *a: Any, **k: Any) -> Any:
        kept.append(run(self, *a, **k))
        return kept[-1]

    JITFunction.run = keep
    cases = [(torch.bfloat16, (r, r)) for r in (8, 16, 32)]
    cases += [(torch.float32, ranks) for ranks in ((16, 16), (16, 17))]
    for dtype, ranks in cases:
        G, weight = torch.zeros(SHAPE, dtype=dtype), torch.zeros(SHAPE, dtype=dtype)
        kept.clear()
        triton_kernels.whole_backward(G, weight, update(ranks))
        triton_kernels.whole_weight(weight, update(ranks), dtype)
        name = f"{str(dtype).removeprefix('torch.')} {ranks[0]} {ranks[1]}"
        found[name] = {kernel.metadata.name: compiled(kernel) for kernel in kept}
    return found


def described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return str(argument.dtype), tuple(argument.shape), argument.stride()
    return str(argument)


def launch_kernels() -> dict[str, Any]:
    """What reaches the launcher at the first, a second and an unaligned pass, and what a pass takes."""
    calls = [0]
    run = JITFunction.run

    def count(self: Any, *a: Any, **k: Any) -> Any:
        calls[0] += 1
        return run(self, *a, **k)

    JITFunction.run = count
    u, dtype = update((16, 16)), torch.bfloat16
    weight, G = torch.zeros(SHAPE, dtype=dtype), torch.zeros(SHAPE, dtype=dtype)
    buffer = torch.zeros(G.numel() + 1, dtype=dtype)[1:].view(SHAPE)
    found: dict[str, Any] = {}
    for name, gradient in {"first": G, "second": G, "unaligned": buffer, "third": G}.items():
        launched.clear()
        calls[0] = 0
        _, signs = triton_kernels.whole_weight(weight, u, dtype, with_signs=True)
        triton_kernels.whole_backward(gradient, weight, u, signs)
        launches = [(kernel, grid, [described(a) for a in args]) for kernel, grid, args in launched]
        found[name] = {"launches": launches, "through the compiler": calls[0]}

    def microseconds() -> float:
        rounds = []
        for _ in range(200):
            start = time.perf_counter()
            _, signs = triton_kernels.whole_weight(weight, u, dtype, with_signs=True)
            triton_kernels.whole_backward(G, weight, u, signs)
            rounds.append(time.perf_counter() - start)
        return 1e6 * sorted(rounds)[100]

    found["microseconds"] = {"cached": microseconds()}
    triton_launch.Launch._compiled = property(lambda self: None, lambda self, value: None)  # type: ignore[assignment]
    found["microseconds"]["through the compiler"] = microseconds()
    return found


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    triton.runtime.driver.set_active(Driver())
    torch.set_num_threads(1)
    print(json.dumps({"compile": compile_kernels, "launch": launch_kernels}[sys.argv[1]]()))
