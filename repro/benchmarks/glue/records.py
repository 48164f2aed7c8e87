"""The eight tasks, and the one record type that all of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from repro.config import one_of
from repro.training.data import DataError, content_id
from repro.training.data_files import checked_text, shown

TaskName = Literal["mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb"]
Split = Literal["train", "validation"]
Metric = Literal["accuracy", "Matthews correlation", "Pearson correlation"]


@dataclass(frozen=True)
class Task:
    """One task: its names, the columns of its texts, its metric.

    Args:
        name: the Hugging Face configuration of `glue`.
        heading: the table's, with the metric.
        columns: of the text or the pair of texts.
        labels: number of classes; 1 is a score from 0 to 5.
        metric: as the LoRA paper's Table 2 reports it.
    """

    name: TaskName
    heading: str
    columns: tuple[str, ...]
    labels: int
    metric: Metric


# The paper's column order. MRPC and QQP are by accuracy, not F1, as in the LoRA paper.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("mnli", "MNLI acc.", ("premise", "hypothesis"), 3, "accuracy"),
        Task("sst2", "SST-2 acc.", ("sentence",), 2, "accuracy"),
        Task("mrpc", "MRPC acc.", ("sentence1", "sentence2"), 2, "accuracy"),
        Task("cola", "CoLA Matthews", ("sentence",), 2, "Matthews correlation"),
        Task("qnli", "QNLI acc.", ("question", "sentence"), 2, "accuracy"),
        Task("qqp", "QQP acc.", ("question1", "question2"), 2, "accuracy"),
        Task("rte", "RTE acc.", ("sentence1", "sentence2"), 2, "accuracy"),
        Task("stsb", "STS-B Pearson", ("sentence1", "sentence2"), 1, "Pearson correlation"),
    )
}


# The names of each task's classes, in the order of their numbers. STS-B's label is a score.
CLASSES: dict[str, tuple[str, ...]] = {
    "mnli": ("entailment", "neutral", "contradiction"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not equivalent", "equivalent"),
    "cola": ("unacceptable", "acceptable"),
    "qnli": ("entailment", "not entailment"),
    "qqp": ("not duplicate", "duplicate"),
    "rte": ("entailment", "not entailment"),
}


def get_task(name: str) -> Task:
    """The task called `name`; raises `DataError` for any other name."""
    if name not in get_args(TaskName):
        raise DataError(one_of("GLUE task", name, TASKS))
    return TASKS[name]


@dataclass(frozen=True, slots=True)
class Record:
    """One text or pair of texts with its label.

    Args:
        id: `<task>/<12 hex digits of the content's sha256>`, with `-2`, `-3`, ... for further copies.
        part: `matched` or `mismatched` in MNLI's validation, otherwise empty.
        label: a class, or STS-B's score.
    """

    id: str
    task: str
    texts: tuple[str, ...]
    label: float
    part: str = ""


def build_records(task: Task, rows: Iterable[Mapping[str, Any]], source: str, part: str = "") -> list[Record]:
    """Records from rows in the Hugging Face columns; `source` opens every error.

    Raises:
        DataError: there are no rows, a column is missing, or a row has no text or no label of the task.
    """
    records: list[Record] = []
    copies: Counter[str] = Counter()
    columns: list[str] = []
    for number, row in enumerate(rows, 1):
        where = f"{source}: row {number}"
        if columns != (columns := list(row)):
            check_columns(task, columns, source)
        texts = tuple(checked_text(row[name], f"{where}: {name}") for name in task.columns)
        # QQP has a few questions without a text, but no pair without any.
        if not "".join(texts).strip():
            raise DataError(
                f"{where} has no text in {', '.join(task.columns)}; write one, or leave out the row"
            )
        label = check_label(task, row["label"], where)
        name = content_id(task.name, task.name, list(texts), label, part)
        copies[name] += 1
        suffix = f"-{copies[name]}" if copies[name] > 1 else ""
        records.append(Record(name + suffix, task.name, texts, label, part))
    if not records:
        raise DataError(f"{source}: no rows; an empty split can be neither trained on nor scored")
    return records


def check_columns(task: Task, names: Iterable[str], source: str) -> None:
    """Check that the task's columns are among the names, each once.

    Raises:
        DataError: one is missing, or there twice.
    """
    there = list(names)
    for name in (*task.columns, "label"):
        if there.count(name) != 1:
            problem = "no column" if name not in there else "more than one column"
            raise DataError(
                f"{source}: {problem} {name!r}; {task.name} needs {', '.join(task.columns)} and label, "
                f"there are {', '.join(there)}"
            )


def check_label(task: Task, value: Any, where: str) -> float:
    """A label of the task as a number; `where` opens the error.

    Raises:
        DataError: it is no number, or none of the task's.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value <= 5 if task.labels == 1 else value in range(task.labels)):
        allowed = "a number from 0 to 5" if task.labels == 1 else f"one of 0 to {task.labels - 1}"
        raise DataError(
            f"{where} has the label {shown(value)}, {task.name} wants {allowed}; GLUE's public test sets are "
            "unlabelled, use train and validation"
        )
    return float(value)
