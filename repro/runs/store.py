"""Where runs leave their files: a folder for each run, in which `result.json` means done.

A run killed at any moment leaves every file whole or not at all. Its next start removes what is unfinished.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from repro.config import ConfigError, Frozen
from repro.files import remove_partial, write_whole
from repro.plans.spec import RunSpec
from repro.runs.result import RESULT_VERSION, Failure, Result
from repro.training.diagnostics import Diagnostics

T = TypeVar("T", bound=Frozen)

RESULT = "result.json"
PREDICTIONS = "predictions.jsonl.gz"
DIAGNOSTICS = "diagnostics.json"
RANKS = "ranks.json"


class RunBusy(RuntimeError):
    """Another process works on the same run."""


class RunWaits(RuntimeError):
    """The run that this one starts from is not done."""


class Store:
    """The runs below one folder, by spec. Reading never changes anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def directory(self, spec: RunSpec) -> Path:
        """The run's own folder, which need not exist yet."""
        return self.folder / spec.slug

    def result(self, spec: RunSpec) -> Result | None:
        """The finished run, or None.

        Raises:
            ConfigError: there is a result file, but it cannot be understood, or is that of another run.
        """
        path = self.directory(spec) / RESULT
        result = read_json(path, Result)
        if result is not None and result.hash != spec.hash:
            raise ConfigError(f"{path}: the result of another run, {result.slug}; delete it to run again")
        return result

    def failure(self, spec: RunSpec) -> Failure | None:
        """What broke the run the last time, or None: a result outlives any failure."""
        if (self.directory(spec) / RESULT).exists():
            return None
        return read_json(self.directory(spec) / "failure.json", Failure)

    def is_done(self, spec: RunSpec) -> bool:
        return self.result(spec) is not None

    def predictions(self, spec: RunSpec) -> list[dict[str, Any]]:
        """Stored predictions of a finished run, one a test item.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        path = self.directory(spec) / PREDICTIONS
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return [json.loads(line) for line in file]
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error}); delete {path.parent} to run it again"
            ) from error

    def diagnostics(self, spec: RunSpec) -> Diagnostics | None:
        """Snapshots of the adapted layers during training; None if there were none.

        Raises:
            ConfigError: there is a file, but it cannot be understood.
        """
        return read_json(self.directory(spec) / DIAGNOSTICS, Diagnostics, "delete it to do without")

    def write_predictions(self, spec: RunSpec, predictions: Sequence[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)
        # Without a time stamp, so that equal predictions are equal files.
        write_whole(self.directory(spec) / PREDICTIONS, gzip.compress(lines.encode(), mtime=0))

    def write_result(self, spec: RunSpec, result: Result) -> None:
        """Declare the run finished; an earlier failure is forgotten."""
        write_json(self.directory(spec) / RESULT, result)
        (self.directory(spec) / "failure.json").unlink(missing_ok=True)

    def write_failure(self, spec: RunSpec, failure: Failure) -> None:
        write_json(self.directory(spec) / "failure.json", failure)

    def checkpoints(self, spec: RunSpec) -> Path:
        """The folder of a run's checkpoints, which goes as soon as the run is done."""
        return self.directory(spec) / "checkpoints"

    @contextmanager
    def scratch(self, spec: RunSpec) -> Iterator[Path]:
        """An empty folder for temporary files of a run.

        It is beside the results: the system's temporary folder may be too small for a tuned model, and nobody
        would clean up there after a killed process.
        """
        folder = self._scratch(spec)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, spec: RunSpec) -> None:
        """Remove what a killed process left in the folder of a run that is claimed, or done."""
        shutil.rmtree(self._scratch(spec), ignore_errors=True)
        if (self.directory(spec) / RESULT).exists():
            shutil.rmtree(self.checkpoints(spec), ignore_errors=True)
        else:  # into the folder of a finished run others write as well
            remove_partial(self.directory(spec))
            remove_partial(self.checkpoints(spec))

    def _scratch(self, spec: RunSpec) -> Path:
        return self.directory(spec) / ".scratch"

    @contextmanager
    def claimed(self, spec: RunSpec) -> Iterator[None]:
        """Hold a run, so that no other process works on it; the lock dies with the process.

        Raises:
            RunBusy: somebody else holds it.
        """
        self.directory(spec).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory(spec) / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunBusy(f"run {spec.slug} is being executed by another process") from error
        try:
            yield
        finally:
            lock.release()


def read_json(path: Path, model_cls: type[T], remedy: str = "delete it to run again") -> T | None:
    """Read a typed file; None if there is none.

    Raises:
        ConfigError: there is one, but it cannot be understood. The message ends with `remedy`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    try:
        return model_cls.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        version = f" of version {RESULT_VERSION}" if model_cls is Result else ""
        raise ConfigError(
            f"{path}: not a valid {model_cls.__name__.lower()}{version} ({where}: {problem['msg']}); {remedy}"
        ) from error


def write_json(path: Path, content: Frozen) -> None:
    """Write a typed file whole or not at all."""
    text = json.dumps(content.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())
