"""Peak memory of tensors that are alive at the same time, independent of the allocator."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Alive(TorchDispatchMode):
    """Tracks the results of all operations, including those of a backward pass on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self.watch(leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor))
        return results

    def watch(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known.add(key)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        self.peak = max(self.peak, self._now)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def peak_bytes(work: Callable[[], object], held: Iterable[Tensor]) -> int:
    """Peak bytes of live tensors while `work` runs on the CPU, including those in `held`."""
    with _Alive() as alive:
        alive.watch(held)
        work()
    return alive.peak
