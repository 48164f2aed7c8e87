"""Registers the adapters as soon as peft is imported, in programs that do not know this project.

`repro register` writes a file which calls `wait_for_peft` at every start of this environment's Python. So
this module imports next to nothing, and nothing happens until a program imports peft.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # `typing` itself would take a third of the time
if TYPE_CHECKING:
    from typing import Any


class _Finder:
    """Finds peft as it would be found anyway, once, and gives it a loader that registers afterwards."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "peft":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            import repro.adapters  # noqa: F401  the import registers them
        except Exception as error:  # peft must work for programs that need none of these adapters
            import warnings

            warnings.warn(
                f"repro's adapters are not registered with peft ({error}); to try no more, `repro register "
                "--remove`",
                stacklevel=2,
            )


def wait_for_peft() -> None:
    """Register the adapters once peft is imported; at once, if it is."""
    if "peft" in sys.modules:
        import repro.adapters  # noqa: F401
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
