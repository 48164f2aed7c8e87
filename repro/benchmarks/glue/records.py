"""The eight tasks, and the one record type that all of them share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from repro.config import one_of
from repro.training.data import DataError, content_id

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
        train_size, validation_size: of the whole public set; MNLI's validation is its two sets together.
        mean_tokens: of a training example with its special tokens. Counted with BERT's uncased vocabulary on
            2,000 examples (in QNLI, QQP and MNLI of public subsets); RoBERTa and DeBERTa cut texts otherwise.
    """

    name: TaskName
    heading: str
    columns: tuple[str, ...]
    labels: int
    metric: Metric
    train_size: int
    validation_size: int
    mean_tokens: float


# The paper's column order. MRPC and QQP are by accuracy, not F1, as in the LoRA paper.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("mnli", "MNLI acc.", ("premise", "hypothesis"), 3, "accuracy", 392_702, 9_815 + 9_832, 40.3),
        Task("sst2", "SST-2 acc.", ("sentence",), 2, "accuracy", 67_349, 872, 13.4),
        Task("mrpc", "MRPC acc.", ("sentence1", "sentence2"), 2, "accuracy", 3_668, 408, 53.3),
        Task("cola", "CoLA Matthews", ("sentence",), 2, "Matthews correlation", 8_551, 1_043, 11.4),
        Task("qnli", "QNLI acc.", ("question", "sentence"), 2, "accuracy", 104_743, 5_463, 49.6),
        Task("qqp", "QQP acc.", ("question1", "question2"), 2, "accuracy", 363_846, 40_430, 31.1),
        Task("rte", "RTE acc.", ("sentence1", "sentence2"), 2, "accuracy", 2_490, 277, 69.7),
        Task(
            "stsb", "STS-B Pearson", ("sentence1", "sentence2"), 1, "Pearson correlation", 5_749, 1_500, 26.8
        ),
    )
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
        DataError: there are no rows, a column is missing, or a row has no label.
    """
    records: list[Record] = []
    copies: Counter[str] = Counter()
    for number, row in enumerate(rows):
        absent = [name for name in (*task.columns, "label") if name not in row]
        if absent:
            raise DataError(
                f"{source}: no column {absent[0]!r}; {task.name} needs {', '.join(task.columns)} and label, "
                f"there are {', '.join(row)}"
            )
        texts = tuple(row[name] for name in task.columns)
        empty = [name for name, text in zip(task.columns, texts, strict=True) if not isinstance(text, str)]
        if empty:
            raise DataError(f"{source}: row {number} has {row[empty[0]]!r} for {empty[0]}; it must be a text")
        label = _label(task, row["label"], f"{source}: row {number}")
        name = content_id(task.name, task.name, list(texts), label, part)
        copies[name] += 1
        suffix = f"-{copies[name]}" if copies[name] > 1 else ""
        records.append(Record(name + suffix, task.name, texts, label, part))
    if not records:
        raise DataError(f"{source}: no rows; an empty split can be neither trained on nor scored")
    return records


def _label(task: Task, value: Any, where: str) -> float:
    allowed = "a number from 0 to 5" if task.labels == 1 else f"one of 0 to {task.labels - 1}"
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = math.nan
    fits = 0 <= label <= 5 if task.labels == 1 else label in range(task.labels)
    if not fits:
        raise DataError(
            f"{where} has the label {value!r}, {task.name} wants {allowed}; GLUE's public test sets are "
            "unlabelled, use train and validation"
        )
    return label
