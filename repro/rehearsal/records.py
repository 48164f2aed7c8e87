"""Made-up records in the columns of the public data sets."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from repro.benchmarks.e2e.synthetic import synthetic_rows
from repro.benchmarks.glue.records import TASKS

_NOUNS = ("river", "stone", "house", "garden", "student", "teacher", "letter", "window", "kitchen", "engine")
_VERBS = ("paints", "carries", "watches", "repairs", "forgets", "finds", "opens", "follows", "measures")
_ENDS = ("quickly", "in the morning", "because of the rain", "with a friend", "behind the wall", "again")

Row = dict[str, Any]


def rows(family: str, name: str, split: str, count: int) -> list[Row]:
    """`count` rows of a data set, the same ones each time.

    Args:
        family: the benchmark family.
        name: of the set within its family, such as a task.
        split: no two splits share a row.
    """
    if family == "e2e":
        return _e2e(split, count)
    draw = random.Random(f"{family}/{name}/{split}")
    make = _COMMONSENSE[name] if family == "commonsense" else _glue(name)
    return [make(draw, number) for number in range(count)]


def _words(draw: random.Random, length: int = 8) -> str:
    return " ".join(draw.choice(words) for _ in range(length // 2) for words in (_NOUNS, _VERBS))


def _sentence(draw: random.Random, length: int = 8) -> str:
    return f"The {_words(draw, length)} {draw.choice(_ENDS)}."


def _texts(draw: random.Random, count: int) -> list[str]:
    return [f"{place}: {_sentence(draw)}" for place in range(count)]


def _boolq(draw: random.Random, number: int) -> Row:
    return {
        "question": f"does the {_words(draw)}",
        "answer": number % 2 == 0,
        "passage": f"{number}: {_sentence(draw)}",
    }


def _piqa(draw: random.Random, number: int) -> Row:
    first, second = _texts(draw, 2)
    return {"goal": _sentence(draw), "sol1": first, "sol2": second, "label": number % 2}


def _siqa(draw: random.Random, number: int) -> Row:
    names = ("answerA", "answerB", "answerC")
    return {
        "context": _sentence(draw),
        "question": "What happens next?",
        **dict(zip(names, _texts(draw, 3), strict=True)),
        "label": str(1 + number % 3),
    }


def _hellaswag(draw: random.Random, number: int) -> Row:
    return {
        "activity_label": draw.choice(_NOUNS),
        "ctx": _sentence(draw, 120),  # longer than max_tokens
        "endings": _texts(draw, 4),
        "label": str(number % 4),
        "source_id": f"made-up~{number}",
    }


def _winogrande(draw: random.Random, number: int) -> Row:
    return {
        "sentence": f"The {_words(draw)} while the _ waits.",
        "option1": draw.choice(_NOUNS),
        "option2": f"other {draw.choice(_NOUNS)}",
        "answer": str(1 + number % 2),
    }


def _lettered(question: str) -> Callable[[random.Random, int], Row]:
    def row(draw: random.Random, number: int) -> Row:
        letters = ["A", "B", "C", "D"]
        return {
            "id": str(number),
            question: _sentence(draw),
            "choices": {"text": _texts(draw, 4), "label": letters},
            "answerKey": letters[number % 4],
        }

    return row


_COMMONSENSE: dict[str, Callable[[random.Random, int], Row]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "social_i_qa": _siqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "ARC-Easy": _lettered("question"),
    "ARC-Challenge": _lettered("question"),
    "openbookqa": _lettered("question_stem"),
}


def _glue(name: str) -> Callable[[random.Random, int], Row]:
    task = TASKS[name]

    def row(draw: random.Random, number: int) -> Row:
        label = number % task.labels if task.labels > 1 else float(number % 6)
        return {column: _sentence(draw) for column in task.columns} | {"label": label, "idx": number}

    return row


def _e2e(split: str, count: int) -> list[Row]:
    found = synthetic_rows(split)[:count]
    return [
        {
            "meaning_representation": ", ".join(f"{slot}[{value}]" for slot, value in slots),
            "human_reference": reference,
        }
        for slots, reference in found
    ]
