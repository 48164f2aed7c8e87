"""Execute missing runs here, one after another; a failure is kept and never stops the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from repro.config import ConfigError
from repro.files import describe_fault, storage_fault
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.environment import environment
from repro.runs.json_files import DamagedFile
from repro.runs.progress import Watch
from repro.runs.result import Failure
from repro.runs.runner import execute
from repro.runs.store import RunBusy, RunWaits, Store


def run_here(
    specs: Sequence[RunSpec],
    *,
    store: Store,
    execution: Callable[[RunSpec], Execution],
    group: str,
    watch: Watch,
) -> None:
    """Execute runs in this process, sharing the loaded base model between neighbours that want the same.

    What became of them is in the store: a result, a failure, or nothing where another process holds the run.

    Raises:
        OSError: a run failed, and the store does not even take the record of it, let alone further runs.
    """
    bases = BaseModels()
    with watch:
        for spec in specs:
            watch.begin(spec)
            try:
                execute(
                    spec,
                    store=store,
                    execution=execution(spec),
                    bases=bases,
                    group=group,
                    report=watch.report,
                    note=watch.note,
                )
            except RunBusy:
                watch.end("another process works on it")
            except (RunWaits, DamagedFile) as error:
                watch.end(f"not started: {error}")
            except Exception as error:
                failure = _failure(spec, store, error)
                watch.end(f"failed: {failure.error}")
                store.write_failure(spec, failure)
            else:
                watch.end("done")


def _failure(spec: RunSpec, store: Store, error: Exception) -> Failure:
    try:
        earlier = store.failure(spec)
    except ConfigError:  # an unreadable record of the last failure must not hide this one
        earlier = None
    fault = storage_fault(error)
    what = f"{type(error).__name__}: {error}"
    if fault is not None:
        what = describe_fault(fault, getattr(error, "filename", None) or store.directory(spec))
    return Failure(
        hash=spec.hash,
        slug=spec.slug,
        error=" ".join(what.split()),
        traceback="".join(traceback.format_exception(error)),
        attempts=1 + (earlier.attempts if earlier else 0),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        # What a person has to mend elsewhere (data, a model, an adapter, the profile) is no fault of the run.
        again=fault is not None or isinstance(error, ConfigError),
    )
