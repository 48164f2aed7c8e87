"""A run rebuilt from its result file alone."""

from __future__ import annotations

from pathlib import Path

from repro.config import ConfigError, parse
from repro.plans.spec import SPEC_VERSION, RunSpec
from repro.runs.result import Result
from repro.runs.store import read_json


def read_run(path: Path) -> tuple[RunSpec, Result]:
    """The spec and the result that a file holds.

    Raises:
        ConfigError: it is no result file, its spec has another version, or its hash is not its spec's.
    """
    result = read_json(path, Result)
    if result is None:
        raise ConfigError(f"{path}: there is no such file; a result is results/runs/<run>/result.json")
    version = result.spec.get("version")
    if version != SPEC_VERSION:
        raise ConfigError(
            f"{path}: its spec has version {version!r}, this code knows {SPEC_VERSION} alone; repeat it with "
            f"the code that made it, commit {result.environment.commit or 'unknown'}"
        )
    spec = parse(result.spec, RunSpec, str(path))
    if spec.hash != result.hash:
        raise ConfigError(
            f"{path}: it says that its hash is {result.hash}, its spec has {spec.hash}; the file was edited, "
            f"or a default changed since commit {result.environment.commit or 'unknown'}"
        )
    return spec, result
