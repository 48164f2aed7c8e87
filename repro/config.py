"""Typed configuration: the base class of all settings, and how YAML is parsed into them.

A typo in an experiment must cost a second, not a night. So unknown keys are refused, settings are immutable,
and all problems are reported together, one line each, with the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from repro.strict_yaml import load_strict
from repro.text import one_line

T = TypeVar("T", bound=BaseModel)
T_Item = TypeVar("T_Item")

# Longer values (a whole mapping under a wrong key) would push the message off the screen.
_SHOWN_CHARACTERS = 80


# A YAML file of settings has some kilobytes.
_FILE_BYTES = 2**20
_LARGEST = 2**63 - 1
_NAME_CHARACTERS = 100


class ConfigError(ValueError):
    """Invalid user input; the message says where and why, one line per problem."""


def _with_strict_scalars(schema: Any) -> Any:
    """The schema with pydantic's strict mode for single values; tuples would refuse the lists of YAML."""
    if isinstance(schema, Mapping):
        strict = {"strict": True} if schema.get("type") in ("bool", "float", "int", "str") else {}
        # No file of settings needs more than 64 bits, and neither torch nor a float takes any number of them.
        bound = {"le": schema.get("le", _LARGEST)} if schema.get("type") == "int" else {}
        return {key: _with_strict_scalars(value) for key, value in schema.items()} | strict | bound
    if isinstance(schema, list):
        return [_with_strict_scalars(part) for part in schema]
    return schema


class Frozen(BaseModel):
    """Base class of all settings: immutable, refuses unknown keys, infinite numbers, values of another type.

    A whole number may stand for a float, and a list for a tuple. Nothing else is converted: not a text or a
    truth value to a number, as pydantic would by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _with_strict_scalars(handler(source))


def added(default: Any, **constraints: Any) -> Any:
    """A field added to a settings class after runs were made with it.

    It is serialised only if it differs from its default, so that earlier runs keep their hash.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value) or value in (".", "..") or len(value) > _NAME_CHARACTERS:
        raise ValueError(
            f"not a name (got {_shown(value)}; allowed: up to {_NAME_CHARACTERS} letters, digits, '.', '_' "
            "and '-', since it becomes part of a path)"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
"""The name of a model, profile, row, ...: a word that is safe as a part of a path."""


def _line(value: str) -> str:
    wrong = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if wrong is not None:
        raise ValueError(f"holds the character {wrong!r} (got {_shown(value)}; allowed: one line of text)")
    return value


def _experiment_name(value: str) -> str:
    return _name(re.sub("^(sweeps|questions)/", "", value)) and value


ExperimentName = Annotated[str, AfterValidator(_experiment_name)]
"""The name of an experiment, which may be in the folder `sweeps` or `questions`."""

Line = Annotated[str, AfterValidator(_line)]
"""A text that is printed, in tables for instance: one line, without control characters."""


def differ(values: tuple[T_Item, ...]) -> tuple[T_Item, ...]:
    """The values, which must differ.

    Raises:
        ValueError: one of them is given more than once.
    """
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated!r} is given more than once; keep one")
    return values


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that every generator takes; numpy's is the narrowest."""


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
    path = folder / f"{name}.yaml"
    try:
        _name(name)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; rename the file") from error
    loaded = load_yaml(path, model_cls)
    check_name(loaded, name, path)
    return loaded


def check_name(loaded: BaseModel, name: str, path: Path) -> None:
    """Refuse a file whose `name`, if it has one, is not the file's.

    Raises:
        ConfigError: they differ.
    """
    said = getattr(loaded, "name", name)
    if said != name:
        raise ConfigError(f"{path}: name: must equal the name of the file, {name!r} (got {_shown(said)})")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, read as strictly as `repro.strict_yaml` says.

    Raises:
        ConfigError: the file cannot be read, or is not such YAML; the message has the line where it is known.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ConfigError(f"{path}: not a file; put a YAML file in its place")
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > _FILE_BYTES:
        raise ConfigError(f"{path}: too large; allowed: {_FILE_BYTES:,} bytes")
    try:
        return load_strict(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: line {line}: the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = " ".join(filter(None, [error.context, error.problem]))
        raise ConfigError(f"{path}: {where}not valid YAML: {reason}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
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
        lines = [one_line(f"{source}: {line}") for line in _problems(error, model_cls)]
        raise ConfigError("\n".join(lines)) from error


def one_of(kind: str, value: object, known: Iterable[str]) -> str:
    """One line: `value` is not a known `kind`, the known ones, and the closest of them."""
    names = sorted(known)
    return f"unknown {kind} {_shown(value)}; known: {', '.join(names)}{_did_you_mean(value, names)}"


def partial_problems(
    content: Mapping[str, Any], model_cls: type[BaseModel], fixed: Container[str] = ()
) -> list[str]:
    """One line for each key that `model_cls` lacks or that is `fixed`, and for each value that does not fit.

    Other settings complete the content, so keys may be missing, and what keys say together is not checked.
    """
    lines = [f"{key}: cannot be set here" for key in content if key in fixed]
    try:
        model_cls.model_validate(content)
    except ValidationError as error:
        lines += _problems(error, model_cls, partial=True)
    return lines


def _problems(error: ValidationError, model_cls: type[BaseModel], *, partial: bool = False) -> Iterator[str]:
    """One line per problem, `key: problem (got X; allowed: ...)`; no `key` if several are at fault."""
    for item in error.errors(include_url=False):
        location = item["loc"]
        key = f"{'.'.join(map(str, location))}: " if location else ""
        kind, got = item["type"], f"got {_shown(item['input'])}"
        if partial and (not location or kind in ("missing", "union_tag_not_found")):
            continue
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
