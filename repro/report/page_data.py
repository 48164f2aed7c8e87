"""What the page's script shows of runs and items: JSON, compressed, and items as far as there is room."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

from repro.analysis.items import Answered, TestSets, run_items
from repro.plans.plan import Plan, PlannedRow
from repro.plans.spec import RunSpec, flatten
from repro.runs.states import RunState
from repro.runs.store import Store

# Points of a learning curve, which is 300 pixels wide.
_CURVE_POINTS = 60

Planned = Sequence[tuple[Plan, Sequence[RunState]]]


def page_data(plans: Planned, store: Store, room: int) -> dict[str, Any]:
    """Runs, rows and items. All of it is `packed`, so that only what is looked at is read.

    Args:
        room: characters that all may have together. Runs whose items no longer fit say so.

    Returns:
        `runs`: the runs, the rows by experiment, and settings of the first run of each cell; they name runs
        by their place. `questions`: by test set and part. `answers`: by run.
    """
    states = {state.spec.hash: state for _, found in plans for state in found}
    place = {name: number for number, name in enumerate(states)}
    runs = [_run(state) for state in states.values()]
    tables = {plan.experiment.name: [_row(row, place) for row in plan.rows] for plan, _ in plans}
    settings = {
        place[spec.hash]: _settings(spec) for plan, _ in plans for row in plan.rows for spec in _firsts(row)
    }

    def told() -> str:
        return packed({"runs": runs, "tables": tables, "settings": settings})

    room -= len(told())
    questions: dict[str, str] = {}
    answers: dict[str, str] = {}
    sets, numbers = TestSets(), dict[tuple[str | None, tuple[str, ...]], int]()
    # Seed by seed, so that every row has items before one has those of all its seeds.
    for name in sorted(states, key=lambda name: states[name].spec.seed):
        state, run = states[name], runs[place[name]]
        if state.result is None:
            continue
        if room <= 0:
            run["holes"] = ["no items: this page has as many as it has room for"]
            continue
        found = run_items(state.spec, state.result, store, sets)
        run["holes"] = list(found.holes)
        tested = found.data, tuple(found.parts)
        known = tested in numbers
        run["set"] = numbers.setdefault(tested, len(numbers))
        run["parts"] = list(found.parts)
        answers[str(place[name])] = packed({part: _answers(items) for part, items in found.parts.items()})
        room -= len(answers[str(place[name])])
        for part, items in () if known else found.parts.items():
            key = f"{run['set']}/{part}"
            questions[key] = packed([[a.item.id, *a.item[2:]] for a in items])
            room -= len(questions[key])
    return {"runs": told(), "questions": questions, "answers": answers}


def packed(content: Any) -> str:
    """JSON as gzip in base64; what is no number is null."""
    text = json.dumps(finite(content), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def finite(content: Any) -> Any:
    """The content with None in the place of NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _run(state: RunState) -> dict[str, Any]:
    """What a cell tells of one of its runs."""
    spec, result = state.spec, state.result
    told: dict[str, Any] = {
        "title": spec.title,
        "slug": spec.slug,
        "seed": spec.seed,
        "state": str(state.state),
        "detail": state.detail,
    }
    if result is None:
        return told
    losses = result.training.losses
    step = math.ceil(len(losses) / _CURVE_POINTS) or 1
    return told | {
        "seconds": round(result.total_seconds) if math.isfinite(result.total_seconds) else None,
        "steps": result.training.steps,
        "losses": [float(f"{loss:.3g}") for loss in losses[::step]],
        "every": step,
        "validation": [[at, float(f"{loss:.3g}")] for at, loss in result.training.validation_losses],
        "diverged": sum(not math.isfinite(loss) for loss in losses),
        "commit": (result.environment.commit or "")[:10],
        "warnings": list(result.warnings),
        "scores": [
            {
                "column": name,
                "metric": score.metric,
                "value": score.value,
                "items": score.items,
                "unparsed": score.unparsed,
                "missing": score.missing,
            }
            for name, score in result.scores.items()
        ],
    }


def _row(row: PlannedRow, place: dict[str, int]) -> dict[str, Any]:
    """A row's runs, and by column where tasks are trained separately."""
    told: dict[str, Any] = {
        "label": row.label,
        "block": row.block,
        "runs": [place[s.hash] for s in row.specs],
    }
    if type(row.specs[0].benchmark).run_per_task:
        told["columns"] = {name: [place[s.hash] for s in row.specs_for(name)] for name in row.columns}
    return told


def _firsts(row: PlannedRow) -> list[RunSpec]:
    """The first run of each column: the others differ in their seed alone."""
    return list({row.specs_for(name)[0].hash: row.specs_for(name)[0] for name in row.columns}.values())


def _settings(spec: RunSpec) -> dict[str, Any]:
    """Settings by dotted key, as far as rows of a table differ in them."""
    dumped = spec.model_dump(mode="json")
    return flatten({name: dumped[name] for name in dumped if name not in ("seed", "version")})


def _answers(items: Sequence[Answered]) -> dict[str, Any]:
    """Answers item by item: `right` is 1, 0 or null, `choice` -1 for an answer that cannot be read, `known`
    whether there is one.
    """
    answers = [answered.answer for answered in items]
    told: dict[str, Any] = {
        "right": [None if answered.right is None else int(answered.right) for answered in items],
        "choice": [None if a is None else -1 if not a.read else a.choice for a in answers],
        "known": [int(a is not None) for a in answers],
    }
    if any(a is not None and a.scores for a in answers):
        told["scores"] = [
            None if a is None else [float(f"{score:.4g}") for score in a.scores] for a in answers
        ]
    if any(a is not None and a.text for a in answers):
        told["text"] = [None if a is None else a.text for a in answers]
    return told
