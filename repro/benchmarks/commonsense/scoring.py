"""Scores of stored predictions, without a model, so that a better scorer needs no new training.

A prediction is a mapping with `task`, `id` and `gold` (an option's index), and the model's output under its
protocol: `text` for `generate`; `log_likelihoods` (nats) and `normalisers`, one per option, for `cloze`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from repro.benchmarks.base import TaskScore
from repro.benchmarks.commonsense.protocols import Reading, read_label
from repro.benchmarks.commonsense.records import get_task
from repro.training.data import DataError

# Raised whenever the same predictions would get another score.
SCORER_VERSION = 1


def score(task: str, predictions: Sequence[Mapping[str, Any]], reading: Reading = "first") -> TaskScore:
    """Accuracy of one task. An answer that cannot be read is wrong, and counted.

    Args:
        predictions: of this task's items; `outcomes` keeps their order.
        reading: of generated texts, see `read_label`.

    Raises:
        DataError: there are no predictions, they are of another task, or one is malformed.
    """
    if not predictions:
        raise DataError(f"no predictions of {task} to score; an empty test set has no accuracy")
    for prediction in predictions:
        if prediction["task"] != get_task(task).name:
            raise DataError(f"prediction {prediction['id']} is of {prediction['task']!r}, not of {task!r}")
    choices = [choice(prediction, reading) for prediction in predictions]
    golds = [prediction["gold"] for prediction in predictions]
    outcomes = [chosen == gold for chosen, gold in zip(choices, golds, strict=True)]
    protocol = "cloze"
    if "text" in predictions[0]:
        protocol = "generate" if reading == "first" else f"generate, {reading} reading"
    return TaskScore(
        metric=f"accuracy ({protocol})",
        value=100 * sum(outcomes) / len(outcomes),
        items=len(outcomes),
        outcomes="".join("1" if right else "0" for right in outcomes),
        unparsed=choices.count(None) / len(choices),
        # The same answer to all items is no collapse if it is always the right one.
        constant=len(set(choices)) == 1 and len(set(golds)) > 1,
    )


def choice(prediction: Mapping[str, Any], reading: Reading = "first") -> int | None:
    """Index of the option that the model chose; None if no answer can be read or a likelihood is NaN.

    Raises:
        DataError: the prediction has no options, or its gold is none of them.
    """
    name, gold = prediction["id"], prediction["gold"]
    generated = "text" in prediction
    options = get_task(prediction["task"]).labels if generated else prediction["log_likelihoods"]
    if not 0 <= gold < len(options):
        raise DataError(
            f"prediction {name}: gold {gold} is none of its {len(options)} options; predict it again"
        )
    if generated:
        return read_label(prediction["task"], prediction["text"], reading)
    normalisers = prediction["normalisers"]
    if len(normalisers) != len(options):
        raise DataError(
            f"prediction {name}: {len(normalisers)} normalisers for {len(options)} options; predict it again"
        )
    scores = [value / normaliser for value, normaliser in zip(options, normalisers, strict=True)]
    if any(math.isnan(value) for value in scores):
        return None
    return max(range(len(scores)), key=scores.__getitem__)
