"""A run rebuilt from its result file alone."""

from __future__ import annotations

from pathlib import Path

from repro.config import ConfigError
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.runs.received import read_result
from repro.runs.result import Result

_REMEDY = "a result is results/runs/<run>/result.json"


def read_run(path: Path) -> tuple[RunSpec, Result]:
    """The spec and the result that a file holds.

    Raises:
        ConfigError: there is no such file, or it cannot be used (see `read_result`).
    """
    read = read_result(path, _REMEDY)
    if read is None:
        raise ConfigError(f"{path}: there is no such file; {_REMEDY}")
    return read


def executed_as(result: Result, execution: Execution) -> Execution:
    """This machine's execution settings, with those of a result that can change its numbers by rounding."""
    recorded = {
        "micro_batch_size": result.training.micro_batch_size,
        "evaluation_tokens": result.evaluation.batch_tokens,
    }
    return execution.model_copy(update={name: size for name, size in recorded.items() if size is not None})
