"""Typed configuration: the base class of all settings, and how YAML is parsed into them.

A typo in an experiment must cost a second, not a night. So unknown keys are refused, settings are immutable,
and all problems are reported together, one line each, with the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

T = TypeVar("T", bound=BaseModel)

# Longer values (a whole mapping under a wrong key) would push the message off the screen.
_SHOWN_CHARACTERS = 80


class ConfigError(ValueError):
    """Invalid user input; the message says where and why, one line per problem."""


class Frozen(BaseModel):
    """Base class of all settings: immutable, refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def added(default: Any, **constraints: Any) -> Any:
    """A field added to a settings class after runs were made with it.

    It is serialised only if it differs from its default, so that earlier runs keep their hash.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


def load_yaml(path: Path, model_cls: type[T]) -> T:
    """Read a YAML file as a `model_cls`.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, or does not fit `model_cls`.
    """
    return parse(read_yaml(path), model_cls, source=str(path))


def names_in(folder: Path) -> list[str]:
    """Names of a folder's YAML files, without the ending."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_named(kind: str, name: str, folder: Path, model_cls: type[T]) -> T:
    """Read `name.yaml` from a folder that holds one file for each `kind` (model, profile, ...).

    Raises:
        ConfigError: there is no such file, or it does not fit `model_cls`.
    """
    if name not in names_in(folder):
        raise ConfigError(one_of(kind, name, names_in(folder)))
    return load_yaml(folder / f"{name}.yaml", model_cls)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: the file is missing, or is not valid YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def parse(content: Any, model_cls: type[T], source: str) -> T:
    """Build a `model_cls` from a mapping. Every error line begins with `source` (a file or an option).

    Raises:
        ConfigError: `content` is not a mapping, or does not fit `model_cls`.
    """
    if not isinstance(content, Mapping):
        allowed = ", ".join(model_cls.model_fields)
        raise ConfigError(f"{source}: must be a mapping with the keys {allowed} (got {_shown(content)})")
    try:
        return model_cls.model_validate(content)
    except ValidationError as error:
        lines = [f"{source}: {line}" for line in _problems(error, model_cls)]
        raise ConfigError("\n".join(lines)) from error


def one_of(kind: str, value: object, known: Iterable[str]) -> str:
    """One line: `value` is not a known `kind`, the known ones, and the closest of them."""
    names = sorted(known)
    return f"unknown {kind} {_shown(value)}; known: {', '.join(names)}{_did_you_mean(value, names)}"


def _problems(error: ValidationError, model_cls: type[BaseModel]) -> Iterator[str]:
    """One line per problem, `key: problem (got X; allowed: ...)`; no `key` if several are at fault."""
    for item in error.errors(include_url=False):
        location = item["loc"]
        key = f"{'.'.join(map(str, location))}: " if location else ""
        kind, got = item["type"], f"got {_shown(item['input'])}"
        if kind == "extra_forbidden":
            fields = _fields(model_cls, location[:-1])
            hint = _did_you_mean(location[-1], fields)
            yield f"{key}unknown key ({got}; allowed: {', '.join(fields)}{hint})"
        elif kind == "missing":
            yield f"{key}missing, and it has no default"
        elif kind == "literal_error":
            yield f"{key}not one of the known values ({got}; allowed: {item['ctx']['expected']})"
        elif kind == "value_error":  # raised by a validator of ours, which names the value itself
            yield from (f"{key}{line}" for line in str(item["ctx"]["error"]).splitlines())
        elif kind == "default_factory_not_called":
            continue  # depends on another field whose own problem is listed
        else:
            yield f"{key}{item['msg']} ({got})"


def _fields(model_cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the keys that are allowed at a place inside `model_cls`."""
    candidates = [model_cls]
    for part in location:
        found = [c.model_fields[part] for c in candidates if isinstance(part, str) and part in c.model_fields]
        if found:  # otherwise a list index, a mapping's key or a union's tag: keep the candidates
            candidates = [model for field in found for model in _models_in(field.annotation)]
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that an annotation such as `dict[str, A | None]` mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _did_you_mean(value: object, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(value), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
