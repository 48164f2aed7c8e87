"""From rows of the public data sets, in their Hugging Face columns, to the parts of a record.

The package and the hub hold the same columns, so both are read here. Rendered under LLM-Adapters' template,
the evaluation sets give its test files byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from repro.training.data import DataError
from repro.training.data_files import shown


class Content(NamedTuple):
    """The parts of a `Record`, and the texts that link the item to related items.

    Args:
        question, options, gold: as in `Record`.
        shared: texts that an item shares with rewordings, twins and neighbours from the same source. Two
            items that share one of them must both be in training or both in testing.
    """

    question: str
    options: tuple[str, ...]
    gold: int
    shared: tuple[str, ...]


def _boolq(row: Mapping[str, Any]) -> Content:
    # The passage is not part of upstream's prompt, but questions about one passage are often rewordings.
    shared = (row["passage"], row["question"])
    return Content(row["question"], ("true", "false"), (True, False).index(row["answer"]), shared)


def _piqa(row: Mapping[str, Any]) -> Content:
    return Content(row["goal"], (row["sol1"], row["sol2"]), int(row["label"]), (row["goal"],))


def _social_i_qa(row: Mapping[str, Any]) -> Content:
    options = (row["answerA"], row["answerB"], row["answerC"])
    return Content(f"{row['context']} {row['question']}", options, int(row["label"]) - 1, (row["context"],))


def _hellaswag(row: Mapping[str, Any]) -> Content:
    question = f"{row['activity_label']}: {row['ctx']}"
    # One video or article gives several items, and 23 contexts of the validation set have several sources.
    return Content(question, tuple(row["endings"]), int(row["label"]), (row["source_id"], row["ctx"]))


def _winogrande(row: Mapping[str, Any]) -> Content:
    options = (row["option1"], row["option2"])
    # The twins of a pair differ in a word or two of the sentence, never in their two options.
    pair = "/".join(sorted(option.lower() for option in options))
    return Content(row["sentence"], options, int(row["answer"]) - 1, (pair,))


def _lettered(question_column: str) -> Callable[[Mapping[str, Any]], Content]:
    def content(row: Mapping[str, Any]) -> Content:
        question, choices = row[question_column], row["choices"]
        # ARC names its options by letters in most rows and by numbers in others.
        gold = choices["label"].index(row["answerKey"])
        return Content(question, tuple(choices["text"]), gold, (question,))

    return content


_CONTENT: dict[str, Callable[[Mapping[str, Any]], Content]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "social_i_qa": _social_i_qa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "ARC-Easy": _lettered("question"),
    "ARC-Challenge": _lettered("question"),
    "openbookqa": _lettered("question_stem"),
}


def contents(task: str, rows: Iterable[Mapping[str, Any]], source: str) -> list[Content]:
    """What each row says; `source` opens every error.

    Raises:
        DataError: a row has no such column, or a value of another kind.
    """
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_CONTENT[task](row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(
                f"{source}: row {number} is {shown(dict(row))} ({reason}); it must have {task}'s columns"
            ) from error
    return found
