"""All methods by name, found by importing every file here: a new method is one file, then `make readme`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.config import ConfigError, one_of, parse
from repro.methods.base import Method


def _discover() -> dict[str, type[Method]]:
    """Import every module beside this one and collect the concrete methods, in alphabetical order."""
    found: dict[str, type[Method]] = {}
    for module_info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module_info.name == Path(__file__).stem:
            continue
        module = importlib.import_module(f"{__package__}.{module_info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(member, Method)
                and not inspect.isabstract(member)
                and member.__module__ == module.__name__
            ):
                name = member.model_fields["name"].default
                if name in found:
                    raise ConfigError(
                        f"two methods are named {name!r}: {found[name].__module__}, {member.__module__}"
                    )
                found[name] = member
    return dict(sorted(found.items()))


METHODS: dict[str, type[Method]] = _discover()


def parse_method(content: Mapping[str, Any] | Method) -> Method:
    """Build a method from its name and non-default settings; a `Method` is returned unchanged.

    Raises:
        ConfigError: the method is unknown, or has no such setting.
    """
    if isinstance(content, Method):
        return content
    name = content.get("name") if isinstance(content, Mapping) else content
    if name not in list(METHODS):  # a list, for a value that cannot be hashed
        raise ConfigError(one_of("method", name, METHODS))
    return parse(content, METHODS[name], source=name)
