"""Finished runs as pandas frames, for notebooks: scores, curves, settings, and items side by side."""

from __future__ import annotations

import pandas as pd

from repro.analysis.items import Answered, TestSets, compared, differ, run_items
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


def compared_items(one: RunSpec, other: RunSpec, store: Store) -> pd.DataFrame:
    """What two finished runs answered to the same test items, side by side.

    Returns:
        One line per item: `task`, `id`, `question`, `options`, `right` (the right option or texts), `one` and
        `other` (the chosen options or texts), `one is right`, `other is right`, `one's scores` and `other's
        scores` (of the options), and `differ`. What is not known is missing; `attrs["holes"]` says why.

    Raises:
        ConfigError: a run is not finished, or the two were tested on different items.
    """
    sets, found = TestSets(), []
    for spec in (one, other):
        result = store.result(spec)
        if result is None:
            raise ConfigError(f"{spec.slug} is not finished; `repro status` shows which runs are")
        found.append(run_items(spec, result, store, sets))
    frame = pd.DataFrame(
        {
            "task": a.item.part,
            "id": a.item.id,
            "question": a.item.question,
            "options": a.item.options,
            "right": " | ".join(a.item.wanted) if a.item.gold is None else a.item.options[a.item.gold],
            "one": _said(a),
            "other": _said(b),
            "one is right": a.right,
            "other is right": b.right,
            "one's scores": a.answer.scores if a.answer else None,
            "other's scores": b.answer.scores if b.answer else None,
            "differ": differ(a, b),
        }
        for a, b in compared(*found)
    )
    frame.attrs["holes"] = list(dict.fromkeys(hole for items in found for hole in items.holes))
    return frame


def _said(answered: Answered) -> str | None:
    """An answer in words; None if it is not known, or cannot be read."""
    answer, options = answered.answer, answered.item.options
    if answer is None or not answer.read:
        return None
    if answer.choice is None or not options:
        return answer.text
    # A generated label may be of an option that this item does not have.
    return options[answer.choice] if answer.choice < len(options) else answer.text


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
