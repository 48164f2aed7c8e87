"""Stored tests of finished runs without merging, readable without torch; `repro.runs.unmerged` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from repro.benchmarks.base import TaskScore
from repro.config import Frozen
from repro.plans.spec import RunSpec
from repro.reading import excerpt
from repro.runs.json_files import DamagedFile, read_json
from repro.runs.received import wrong_scores
from repro.runs.result import Amount, Count, Environment, Result
from repro.runs.store import UNMERGED, Store

_REMEDY = "delete it to test again with `repro unmerged`"


class Unmerged(Frozen):
    """The test of a finished run with its adapter beside the base's weights, instead of merged into them.

    Attributes:
        hash: of the run.
        scores: by column, of the same items, as in the run's result.
        seconds: of the test pass.
        batch_tokens: largest number of tokens in one forward pass.
        model_revision, data_fingerprint: of the base model and of the test data, equal to the run's.
    """

    version: Literal[1] = 1
    hash: str
    scores: dict[str, TaskScore]
    scorer_version: Count
    seconds: Amount
    items: int = Field(ge=1)
    batch_tokens: int = Field(ge=1)
    finished: str
    model_revision: str
    data_fingerprint: str
    environment: Environment


def was_merged(result: Result) -> bool:
    """Whether an adapter was merged for the run's test; training the base itself leaves nothing to merge."""
    return result.evaluation.merged and bool(result.adapted_layers)


def known_unmerged(spec: RunSpec, result: Result, store: Store) -> Unmerged | None:
    """The stored test of a finished run without merging; None if there is none yet.

    Raises:
        DamagedFile: there is a file, but it cannot be understood, is not of this run and its test items, or
            contradicts itself.
    """
    path = store.directory(spec) / UNMERGED
    found = read_json(path, Unmerged, _REMEDY)
    if found is None:
        return None
    fault = next(_faults(spec, result, found), None)
    if fault is not None:
        raise DamagedFile(f"{path}: {excerpt(fault)}; {_REMEDY}")
    return found


def _faults(spec: RunSpec, result: Result, found: Unmerged) -> Iterator[str]:
    if found.hash != spec.hash:
        yield f"of another run, {found.hash}"
    if not was_merged(result):
        yield "nothing was merged for the run's own test"
    expected = {
        "model_revision": result.model_revision,
        "data_fingerprint": result.data_fingerprints.get("test"),
        "scorer_version": result.evaluation.scorer_version,
        "items": result.evaluation.items,
    }
    for name, value in expected.items():
        if getattr(found, name) != value:
            yield f"{name} is {getattr(found, name)}, the run's is {value}"
    yield from wrong_scores("scores", spec, found.scores, found.items)
