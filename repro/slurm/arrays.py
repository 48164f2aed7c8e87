"""Assigns runs to tasks of SLURM arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from repro.plans.spec import RunSpec


@dataclass(frozen=True)
class Place:
    """A task of an array that is already queued."""

    job: str
    index: int


@dataclass(eq=False)
class Array:
    """Each task's runs by its index. A task waits for the one with the same index in the array `after`.

    Attributes:
        after: an array of the same submission, or the id of an array that is already queued.
    """

    after: Array | str | None = None
    runs: dict[int, list[RunSpec]] = field(default_factory=dict)


def make_arrays(
    specs: Sequence[RunSpec], queued: Mapping[str, Place], longest: int, runs_per_task: int = 1
) -> list[Array]:
    """Assign runs to arrays of at most `longest` tasks, in the order in which arrays must be submitted.

    Runs of a task have the same model. A run from which others start has a task of its own, so that these
    wait for it alone. Their tasks have the same index as its task, as SLURM's `aftercorr` requires; two tasks
    of them are therefore in different arrays.

    Args:
        specs: a run comes after the run that it starts from.
        queued: tasks of runs that are already queued, by hash.
    """
    started_from = {spec.parent.hash for spec in specs if spec.parent is not None}
    arrays: list[Array] = []
    places: dict[str, tuple[Array | str, int]] = {
        hash: (place.job, place.index) for hash, place in queued.items()
    }
    open_tasks: dict[tuple[object, ...], list[RunSpec]] = {}  # tasks that may take another run
    for spec in specs:
        parent = places.get(spec.parent.hash) if spec.parent is not None else None
        kind, shares = (parent, spec.model.name), spec.hash not in started_from
        task = open_tasks.get(kind)
        if shares and task is not None and len(task) < runs_per_task:
            task.append(spec)
            continue
        after = parent[0] if parent else None
        alike = [array for array in arrays if array.after == after]
        if parent:
            index = parent[1]
            array = next((array for array in alike if index not in array.runs), None)
        else:
            array = next((array for array in alike if len(array.runs) < longest), None)
            index = len(array.runs) if array else 0
        if array is None:
            array = Array(after)
            arrays.append(array)
        array.runs[index] = [spec]
        places[spec.hash] = (array, index)
        if shares:
            open_tasks[kind] = array.runs[index]
    return arrays


def indices(numbers: Sequence[int]) -> str:
    """Indices in the notation of SLURM's `--array`: `0-3,7`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
