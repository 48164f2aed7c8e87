"""Finished runs as pandas frames, for notebooks: scores, curves, settings, and items side by side."""

from __future__ import annotations

import pandas as pd

from repro.config import ConfigError
from repro.plans.plan import Plan
from repro.plans.spec import RunSpec, flatten
from repro.runs.result import Result
from repro.runs.store import Store


def runs_frame(plan: Plan, store: Store) -> pd.DataFrame:
    """One line per finished run: `row`, `run` (its slug), `seed`, and its cost.

    Raises:
        ConfigError: no run is finished.
    """
    return pd.DataFrame(
        {
            **place,
            "trainable_parameters": result.trainable_parameters,
            "steps": result.training.steps,
            "final_loss": result.training.losses[-1] if result.training.losses else None,
            "training_seconds": result.training.seconds,
            "total_seconds": result.total_seconds,
            "peak_memory_MiB": (result.peak_memory_bytes or 0) / 2**20 or None,
            "commit": (result.environment.commit or "")[:10],
        }
        for place, result in _finished(plan, store)
    )


def scores_frame(plan: Plan, store: Store) -> pd.DataFrame:
    """One line per score: `row`, `run`, `seed`, `task`, `metric`, `value` and the number of `items`.

    Raises:
        ConfigError: no run is finished.
    """
    return pd.DataFrame(
        {
            **place,
            "task": task,
            "metric": score.metric,
            "value": score.value,
            "items": score.items,
        }
        for place, result in _finished(plan, store)
        for task, score in result.scores.items()
    )


def losses_frame(plan: Plan, store: Store) -> pd.DataFrame:
    """One line per optimiser step: `row`, `run`, `seed`, `step` (from 1) and `loss`.

    Raises:
        ConfigError: no run is finished.
    """
    return pd.DataFrame(
        {**place, "step": step, "loss": loss}
        for place, result in _finished(plan, store)
        for step, loss in enumerate(result.training.losses, 1)
    )


def differing_settings(one: RunSpec, other: RunSpec) -> pd.DataFrame:
    """The settings in which two runs differ, by dotted key; None where a run lacks the key."""
    first, second = (flatten(spec.model_dump(mode="json")) for spec in (one, other))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return pd.DataFrame(
        {one.slug: [first.get(key) for key in keys], other.slug: [second.get(key) for key in keys]},
        index=pd.Index(keys, name="setting"),
    )


def paired_items(one: RunSpec, other: RunSpec, store: Store) -> pd.DataFrame:
    """Predictions of two finished runs for the same test items, side by side.

    Returns:
        One line per item, with `task`, `id`, and the columns of a prediction once for each run.

    Raises:
        ConfigError: a run is not finished, or the two were tested on different items.
    """
    frames = []
    for spec in (one, other):
        if store.result(spec) is None:
            raise ConfigError(f"{spec.slug} is not finished; `repro status` shows which runs are")
        frames.append(pd.DataFrame(store.predictions(spec)).set_index(["task", "id"]).sort_index())
    if not frames[0].index.equals(frames[1].index):
        raise ConfigError(
            f"{one.slug} and {other.slug} were tested on different items; compare two that share them"
        )
    return frames[0].join(frames[1], lsuffix=" (one)", rsuffix=" (other)").reset_index()


def _finished(plan: Plan, store: Store) -> list[tuple[dict[str, object], Result]]:
    """Finished runs, each with the columns that identify it in a frame."""
    found: list[tuple[dict[str, object], Result]] = [
        ({"row": row.label, "run": spec.slug, "seed": spec.seed}, result)
        for row in plan.rows
        for spec in row.specs
        if (result := store.result(spec)) is not None
    ]
    if not found:
        name, profile = plan.experiment.name, plan.profile.name
        raise ConfigError(
            f"no run of {name} under profile {profile} is finished in {store.folder}; "
            f"`repro run {name} --profile {profile}` executes them"
        )
    return found
