"""What every part of a run needs to know: which run, where it is kept, how it is executed, whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.link import Link
from repro.runs.store import Store
from repro.training import collectives

Report = Callable[[str, int, int], None]
"""Told of progress: the phase (`train` or `evaluate`), steps or batches done, and their total."""

Note = Callable[[str], None]
"""Told, in one line, what a person should know about a run and no result says."""


@dataclass(frozen=True)
class Job:
    """One run in one process.

    Attributes:
        bases: loaded base models, which neighbouring runs share.
        group: the experiment that asked for the run; W&B groups runs by it.
        scratch: an empty folder, removed when the run ends.
        link: to the process that started this one, where a run has several.
    """

    spec: RunSpec
    store: Store
    execution: Execution
    bases: BaseModels
    group: str
    scratch: Path
    report: Report
    note: Note
    link: Link | None = None

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return self.store.directory(self.spec)

    @property
    def adapter(self) -> Path:
        """Where the trained weights are saved before the run is finished."""
        return self.scratch / "adapter"

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports; of several, the first."""
        return collectives.rank() == 0

    @property
    def examples(self) -> int:
        """Examples in one training pass of this process."""
        return self.execution.examples(self.spec.training.batch_size)


def on_gpu(execution: Execution) -> bool:
    return execution.accelerator != "cpu" and torch.cuda.is_available()
