"""A test without merging, for tests of the files that hold it."""

from __future__ import annotations

from repro.runs.known_unmerged import Unmerged
from repro.runs.result import Result


def unmerged_as(own: Result) -> Unmerged:
    """The same scores as with merging."""
    return Unmerged(
        hash=own.hash,
        scores=own.scores,
        scorer_version=own.evaluation.scorer_version,
        seconds=1.0,
        items=own.evaluation.items,
        batch_tokens=1024,
        finished="now",
        model_revision=own.model_revision,
        data_fingerprint=own.data_fingerprints["test"],
        environment=own.environment,
    )
