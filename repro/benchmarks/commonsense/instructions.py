"""The instruction text of LLM-Adapters' data files: from `Record` to text and back, byte for byte.

Upstream (AGI-Edgerunners/LLM-Adapters) keeps rendered prompts, in `dataset/<task>/test.json` and
`ft-training_set/commonsense_170k.json`. Rendering this project's records gives exactly its test files, as
their git blob ids show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from repro.benchmarks.commonsense.records import Record, Split, build_records, get_task
from repro.training.data import DataError
from repro.training.data_files import checked_text, shown

# The keys of upstream's rows.
_FIELDS = ("instruction", "input", "output", "answer")


@dataclass(frozen=True)
class Layout:
    """The text of one task's instruction around its question and options.

    Args:
        opening: the task sentence, up to the question.
        closing: what follows the question.
        between: separates the listed options; None where the options are not listed (BoolQ).
        before_format: separates the options from the line that names the labels.
    """

    opening: str
    closing: str = ""
    between: str | None = " "
    before_format: str = "\n\n"


_ANSWER = Layout("Please choose the correct answer to the question: ")
LAYOUTS: dict[str, Layout] = {
    "boolq": Layout(
        "Please answer the following question with true or false, question: ", closing="?", between=None
    ),
    "piqa": Layout("Please choose the correct solution to the question: ", between="\n\n"),
    "social_i_qa": _ANSWER,
    "hellaswag": Layout("Please choose the correct ending to complete the given sentence: "),
    "winogrande": Layout(
        "Please choose the correct answer to fill in the blank to complete the given sentence: ",
        before_format=" ",
    ),
    "ARC-Easy": _ANSWER,
    "ARC-Challenge": _ANSWER,
    "openbookqa": _ANSWER,
}


def _render(task: str, question: str, options: tuple[str, ...]) -> str:
    layout, labels = LAYOUTS[task], get_task(task).labels[: len(options)]
    text = layout.opening + question + layout.closing
    if layout.between is not None:
        listed = (f"{label.capitalize()}: {option}" for label, option in zip(labels, options, strict=True))
        text += "\n\n" + layout.between.join(listed)
    return f"{text}{layout.before_format}Answer format: {'/'.join(labels)}"


def render_instruction(record: Record) -> str:
    """The `instruction` of upstream's row."""
    return _render(record.task, record.question, record.options)


def render_output(record: Record) -> str:
    """The `output` of upstream's row, which is what a model is trained to say."""
    return _output(record.answer)


def render_outputs(record: Record) -> list[str]:
    """The completion with each of the item's labels; the gold one's is `render_output`."""
    return list(map(_output, record.labels))


def _output(answer: str) -> str:
    return f"the correct answer is {answer}"


def parse_instruction(task: str, text: str) -> tuple[str, tuple[str, ...]]:
    """Question and options of a rendered instruction.

    Raises:
        DataError: the text is not what the task's template renders from any question and options.
    """
    layout, labels = LAYOUTS[get_task(task).name], get_task(task).labels
    body, format_mark, label_list = text.rpartition(f"{layout.before_format}Answer format: ")
    count = label_list.count("/") + 1
    body = body.removeprefix(layout.opening)
    if layout.between is None:
        question, options = body.removesuffix(layout.closing), labels
    else:
        question, _, rest = body.partition(f"\n\n{labels[0].capitalize()}: ")
        found = []
        for label in labels[1:count]:
            option, _, rest = rest.partition(f"{layout.between}{label.capitalize()}: ")
            found.append(option)
        options = (*found, rest)
    if not format_mark or _render(task, question, options) != text:
        raise DataError(f"not an instruction of LLM-Adapters' {task}: {shown(text)}; check file and task")
    return question, options


def to_row(record: Record) -> dict[str, str]:
    """The record as upstream stores it."""
    return {
        "instruction": render_instruction(record),
        "input": "",
        "output": render_output(record),
        "answer": record.answer,
    }


def from_rows(task: str, split: Split, rows: object, source: str) -> list[Record]:
    """Records from upstream's rows; every record renders back to its row.

    Args:
        rows: what the JSON file held; anything but upstream's list of objects is refused.
        source: the file, which opens every error.

    Raises:
        DataError: there are no rows, or one is not as upstream's template writes it.
    """
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{source} holds {shown(rows)}; it must be a list of objects with {', '.join(_FIELDS)}"
        )
    contents = [_content(task, row, f"{source}: row {number}") for number, row in enumerate(rows, 1)]
    return build_records(task, split, contents, source)


def _content(task: str, row: object, where: str) -> tuple[str, tuple[str, ...], int]:
    """Question, options and gold of one row."""
    if not isinstance(row, dict) or row.keys() != set(_FIELDS):
        found = f"an object with {shown(', '.join(row))}" if isinstance(row, dict) else shown(row)
        raise DataError(f"{where} is {found}; it must be an object with {', '.join(_FIELDS)}")
    texts = {field: checked_text(row[field], f"{where}: {field}") for field in _FIELDS}
    try:
        question, options = parse_instruction(task, texts["instruction"])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    allowed = get_task(task).labels[: len(options)]
    answer = texts["answer"]
    if answer not in allowed:
        raise DataError(f"{where}: answer {shown(answer)}; allowed are {', '.join(allowed)}")
    for field, wanted in (("input", ""), ("output", _output(answer))):
        if texts[field] != wanted:
            raise DataError(f"{where}: {field} is {shown(texts[field])}; LLM-Adapters has {wanted!r} here")
    return question, options, allowed.index(answer)


def render_upstream_file(records: Iterable[Record]) -> bytes:
    """The records as upstream's JSON file: indented by four, ASCII, no newline at the end."""
    return json.dumps([to_row(record) for record in records], indent=4).encode("ascii")


def git_blob_id(content: bytes) -> str:
    """The id under which git stores a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
