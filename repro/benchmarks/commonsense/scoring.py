"""Scores of stored predictions, without a model, so that a better scorer needs no new training.

A prediction is a mapping with `task`, `id` and `gold` (an option's index); `log_likelihoods` (nats) and
`normalisers`, one per option; and under `generate` the `text`, which alone decides what was chosen. There the
options are the trained sentence with each label, and predictions of version 1 lack their likelihoods.

The probability of an option is a softmax over the item's options of

    log-likelihood / normaliser x mean normaliser of the item's options

The factor is the same for all options, so the protocol's choice is the most probable one, and the scale is
that of whole options. Without it the softmax would be of nats per character, and all near chance. Where
normalisers are 1 it is the plain softmax of the log-likelihoods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from repro.benchmarks.base import Answer, TaskScore
from repro.benchmarks.commonsense.protocols import Reading, read_label
from repro.benchmarks.commonsense.records import get_task
from repro.benchmarks.gold_probability import gold_log_probability
from repro.benchmarks.stored import TaskPrediction, read_predictions
from repro.training.data import DataError
from repro.training.data_files import shown

# Raised whenever the same predictions would get another score.
SCORER_VERSION = 2


class _Prediction(TaskPrediction):
    gold: int
    text: str | None = None
    log_likelihoods: list[float] = []
    normalisers: list[Annotated[FiniteFloat, Field(gt=0)]] = []


def score(task: str, predictions: Sequence[Mapping[str, Any]], reading: Reading = "first") -> TaskScore:
    """Accuracy of one task, and the log-probabilities of its gold options.

    An answer that cannot be read is wrong, and counted.

    Args:
        predictions: of this task's items; `outcomes` keeps their order.
        reading: of generated texts, see `read_label`.

    Raises:
        DataError: there are no predictions, they are of another task, one is malformed, or only some have
            likelihoods.
    """
    read = read_predictions(_Prediction, predictions, get_task(task).name)
    choices = [choice(prediction, reading) for prediction in read]
    golds = [prediction.gold for prediction in read]
    outcomes = [chosen == gold for chosen, gold in zip(choices, golds, strict=True)]
    protocol = "cloze"
    if read[0].text is not None:
        protocol = "generate" if reading == "first" else f"generate, {reading} reading"
    return TaskScore(
        metric=f"accuracy ({protocol})",
        value=100 * sum(outcomes) / len(outcomes),
        items=len(outcomes),
        outcomes="".join("1" if right else "0" for right in outcomes),
        log_probabilities=_log_probabilities(read),
        unparsed=choices.count(None) / len(choices),
        # The same answer to all items is no collapse if it is always the right one.
        constant=len(set(choices)) == 1 and len(set(golds)) > 1,
    )


def answer(prediction: Mapping[str, Any], reading: Reading = "first") -> Answer:
    """What was chosen, and the options' log-likelihoods by which it was, each divided by its normaliser.

    Raises:
        DataError: the prediction is malformed.
    """
    (read,) = read_predictions(_Prediction, [prediction], str(prediction.get("task")))
    chosen = choice(read, reading)
    scores = () if read.text is not None else tuple(_scores(read))
    return Answer(chosen, scores, read.text or "", chosen is not None)


def _scores(prediction: _Prediction) -> list[float]:
    pairs = zip(prediction.log_likelihoods, prediction.normalisers, strict=True)
    return [value / normaliser for value, normaliser in pairs]


def _log_probabilities(predictions: Sequence[_Prediction]) -> tuple[float, ...]:
    """Of the gold options; none where texts were generated without likelihoods."""
    without = [prediction for prediction in predictions if not prediction.log_likelihoods]
    if len(without) == len(predictions):
        return ()
    if without:
        raise DataError(f"prediction {shown(without[0].id)} lacks the log_likelihoods that others have")
    found = []
    for prediction in predictions:
        mean = sum(prediction.normalisers) / len(prediction.normalisers)
        found.append(gold_log_probability([mean * value for value in _scores(prediction)], prediction.gold))
    return tuple(found)


def choice(prediction: _Prediction, reading: Reading = "first") -> int | None:
    """Index of the option that the model chose; None if no answer can be read or a likelihood is NaN.

    Raises:
        DataError: the prediction has no options or no answer, or its gold is none of them.
    """
    name, gold, text = f"prediction {shown(prediction.id)}", prediction.gold, prediction.text
    normalisers = prediction.normalisers
    scored = len(prediction.log_likelihoods)
    count = len(get_task(prediction.task).labels) if text is not None and not scored else scored
    if not 0 <= gold < count:
        raise DataError(f"{name}: gold {gold} is none of its {count} options; predict it again")
    if len(normalisers) != scored:
        raise DataError(f"{name}: {len(normalisers)} normalisers for {scored} options; predict it again")
    if text is not None:
        return read_label(prediction.task, text, reading)
    scores = _scores(prediction)
    if any(math.isnan(value) for value in scores):
        return None
    return max(range(count), key=scores.__getitem__)
