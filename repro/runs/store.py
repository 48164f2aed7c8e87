"""Where runs leave their files: a folder for each run, in which `result.json` means done.

A run killed at any moment leaves every file whole or not at all. Its next start removes what is unfinished.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repro.config import ConfigError
from repro.files import remove_partial, write_whole
from repro.plans.spec import RunSpec
from repro.reading import excerpt, read_regular, strict_json
from repro.runs.json_files import DamagedFile, read_json, write_json
from repro.runs.received import read_result
from repro.runs.result import Failure, Result
from repro.training.diagnostics import Diagnostics

RESULT = "result.json"
FAILURE = "failure.json"
PREDICTIONS = "predictions.jsonl.gz"
DIAGNOSTICS = "diagnostics.json"
RANKS = "ranks.json"
NORM = "norm.json"
UNMERGED = "unmerged.json"

# A run's folder is named by its spec, which may come from a file of somebody else.
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{,199}")

# Bytes of predictions. Those of the paper's profile have 10 MB unpacked.
_LARGEST = 2**28


class RunBusy(RuntimeError):
    """Another process works on the same run."""


class RunWaits(RuntimeError):
    """The run that this one starts from is not done."""


class Store:
    """The runs below one folder, by spec. Reading never changes anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def directory(self, spec: RunSpec) -> Path:
        """The run's own folder, which need not exist yet.

        Raises:
            ConfigError: its name would be a path.
        """
        if not _FOLDER.fullmatch(spec.slug):
            raise ConfigError(
                f"a run's folder cannot be called {excerpt(spec.slug)!r}; its model's name may have "
                "letters, digits, '.', '_' and '-'"
            )
        return self.folder / spec.slug

    def result(self, spec: RunSpec) -> Result | None:
        """The finished run, or None.

        Raises:
            DamagedFile: there is a result file, but it cannot be used (see `read_result`), or is that of
                another run.
        """
        path = self.directory(spec) / RESULT
        remedy = _again(path)
        read = read_result(path, remedy)
        if read is None:
            return None
        found, result = read
        if found.hash != spec.hash:
            raise DamagedFile(f"{path}: the result of another run, {found.slug}; {remedy}")
        return result

    def failure(self, spec: RunSpec) -> Failure | None:
        """What broke the run the last time, or None: a result outlives any failure.

        Raises:
            DamagedFile: there is a file, but it cannot be understood, or is that of another run.
        """
        if (self.directory(spec) / RESULT).exists():
            return None
        path = self.directory(spec) / FAILURE
        failure = read_json(path, Failure)
        if failure is not None and failure.hash != spec.hash:
            raise DamagedFile(f"{path}: of another run, {excerpt(failure.slug)}; delete it to run again")
        return failure

    def is_done(self, spec: RunSpec) -> bool:
        return self.result(spec) is not None

    def predictions(self, spec: RunSpec, rule: str | None = None) -> list[dict[str, Any]]:
        """Stored predictions of a finished run, one a test item.

        Args:
            rule: of the weights that were not selected, `last` or `best`; None for those that were.

        Raises:
            DamagedFile: the file is missing or damaged, or a line is no mapping.
        """
        path = self.predictions_file(spec, rule)
        number = 0
        try:
            packed = read_regular(path, _LARGEST)
            if packed is None:
                raise ValueError("there is no such file")
            predictions = []
            for number, line in enumerate(_unpacked(packed).splitlines(), 1):  # noqa: B007
                prediction = strict_json(line)
                if not isinstance(prediction, dict):
                    raise ValueError("it is no mapping")
                predictions.append(prediction)
            return predictions
        except (OSError, EOFError, ValueError, zlib.error) as error:
            where = f"line {number}: " if number else ""
            raise DamagedFile(
                f"{path}: cannot be read ({where}{excerpt(str(error))}); {_again(path)}"
            ) from error

    def predictions_file(self, spec: RunSpec, rule: str | None = None) -> Path:
        """Where `predictions` are stored."""
        return self.directory(spec) / (f"{rule}-{PREDICTIONS}" if rule else PREDICTIONS)

    def diagnostics(self, spec: RunSpec) -> Diagnostics | None:
        """Snapshots of the adapted layers during training; None if there were none.

        Raises:
            DamagedFile: there is a file, but it cannot be understood.
        """
        return read_json(self.directory(spec) / DIAGNOSTICS, Diagnostics, "delete it to do without")

    def write_predictions(
        self, spec: RunSpec, predictions: Sequence[dict[str, Any]], rule: str | None = None
    ) -> None:
        lines = "".join(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)
        # Without a time stamp, so that equal predictions are equal files.
        write_whole(self.predictions_file(spec, rule), gzip.compress(lines.encode(), mtime=0))

    def write_result(self, spec: RunSpec, result: Result) -> None:
        """Declare the run finished; an earlier failure is forgotten."""
        write_json(self.directory(spec) / RESULT, result)
        (self.directory(spec) / FAILURE).unlink(missing_ok=True)

    def write_failure(self, spec: RunSpec, failure: Failure) -> None:
        write_json(self.directory(spec) / FAILURE, failure)

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


def _again(path: Path) -> str:
    return f"move or delete {path.parent} to run it again"


def _unpacked(packed: bytes) -> bytes:
    """The content of a gzip file.

    Raises:
        OSError, EOFError, zlib.error: it is damaged.
        ValueError: it is larger than any file of predictions.
    """
    with gzip.open(io.BytesIO(packed)) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes unpacked")
    return content
