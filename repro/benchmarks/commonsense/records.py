"""The eight tasks, and the one record type that all of them share.

A `Record` keeps the parts of an item (question, options, gold) instead of its rendered prompt, so that one
item serves every protocol and template. Its id is a hash of its content: the same item has the same id in
every source, and deterministic choices (`select`, the split of the package's sets) depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from repro.config import one_of
from repro.training.data import DataError, content_id, select
from repro.training.data_files import checked_text, shown

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Task:
    """One task: its names and its labels.

    Args:
        name: LLM-Adapters' folder name.
        title: the paper's column heading.
        labels: every label that upstream's evaluation recognises, in option order. An item uses the first
            `len(options)` of them.
    """

    name: str
    title: str
    labels: tuple[str, ...]


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{number}" for number in range(1, count + 1))


# The paper's column order. Upstream recognises answer1..answer5 in all four `answer` tasks, though only ARC
# has items with five options.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("boolq", "BoolQ", ("true", "false")),
        Task("piqa", "PIQA", _numbered("solution", 2)),
        Task("social_i_qa", "SIQA", _numbered("answer", 5)),
        Task("hellaswag", "HellaS.", _numbered("ending", 4)),
        Task("winogrande", "WinoG.", _numbered("option", 2)),
        Task("ARC-Easy", "ARC-e", _numbered("answer", 5)),
        Task("ARC-Challenge", "ARC-c", _numbered("answer", 5)),
        Task("openbookqa", "OBQA", _numbered("answer", 5)),
    )
}


def get_task(name: str) -> Task:
    """The task called `name`; raises `DataError` for any other name."""
    if name not in TASKS:
        raise DataError(one_of("commonsense task", name, TASKS))
    return TASKS[name]


@dataclass(frozen=True, slots=True)
class Record:
    """One multiple-choice item.

    Args:
        id: `<task>/<12 hex digits of the content's sha256>`, with `-2`, `-3`, ... for further copies of the
            same item in the same split.
        task: a key of `TASKS`.
        split: trained on or tested on.
        question: all text of the item before its options. SIQA: context and question; HellaSwag: activity
            and context; WinoGrande: the sentence with its `_`; BoolQ: the question alone, without passage and
            question mark.
        options: the answers to choose from; ("true", "false") for BoolQ.
        gold: index of the right option.
    """

    id: str
    task: str
    split: Split
    question: str
    options: tuple[str, ...]
    gold: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each option, as upstream's prompt lists them."""
        return TASKS[self.task].labels[: len(self.options)]

    @property
    def asked(self) -> tuple[str, ...]:
        """Question and options, in whatever order."""
        return self.question, *sorted(self.options)

    @property
    def answer(self) -> str:
        """The label of the right option."""
        return self.labels[self.gold]


def build_records(
    task: str, split: Split, contents: Iterable[tuple[str, Sequence[str], int]], source: str = "records"
) -> list[Record]:
    """Records with their ids from (question, options, gold), in the given order; `source` opens every error.

    Raises:
        DataError: an unknown task or split, a value that is no text or an empty question, too few or too
            many options, a gold outside the options, or a WinoGrande sentence without its blank.
    """
    if split not in get_args(Split):
        raise DataError(one_of("split", split, get_args(Split)))
    copies: Counter[str] = Counter()
    records = []
    labels = get_task(task).labels
    for row, (question, options, gold) in enumerate(contents, 1):
        where = f"{source}: row {row}"
        for text in (question, *options):
            checked_text(text, where)
        if not 2 <= len(options) <= len(labels) or gold not in range(len(options)):
            raise DataError(
                f"{where}: {len(options)} options and gold index {shown(gold)}; "
                f"{task} has 2 to {len(labels)} options and the gold is one of them"
            )
        if not question.strip():
            raise DataError(f"{where}: the question is empty; write one")
        if task == "winogrande" and question.count("_") != 1:
            raise DataError(f"{where}: {shown(question)}; a winogrande sentence has one blank, written _")
        name = content_id(task, task, question, list(options), gold)
        copies[name] += 1
        suffix = f"-{copies[name]}" if copies[name] > 1 else ""
        records.append(Record(name + suffix, task, split, question, tuple(options), gold))
    return records


def mix(parts: Iterable[Sequence[Record]], seed: int) -> list[Record]:
    """All records of several tasks in hash order, so that the tasks are mixed."""
    records = [record for part in parts for record in part]
    return select(records, len(records), seed)
