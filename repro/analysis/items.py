"""What finished runs answered to each test item, and two runs item by item.

Predictions say it all, but they are large and not committed. Where a run has none, its result still says
which items were right, and their texts come from the data it was tested on, if these are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from repro.benchmarks.base import Answer, Benchmark, Item, TaskScore
from repro.benchmarks.stored import by_id
from repro.config import ConfigError
from repro.plans.spec import RunSpec
from repro.runs.json_files import DamagedFile
from repro.runs.result import Result
from repro.runs.store import Store
from repro.text import one_line
from repro.training.data import DataError, fingerprint


class Answered(NamedTuple):
    """A test item and what a run made of it.

    Attributes:
        right: whether the answer is right; None where the metric does not judge single items.
        answer: None where it is unknown.
    """

    item: Item
    right: bool | None
    answer: Answer | None

    @property
    def said(self) -> int | str | None:
        """What two runs are compared by: the chosen option, or the text; None where nothing is known."""
        if self.answer is None:
            return None
        if self.item.options:
            return -1 if self.answer.choice is None else self.answer.choice
        return self.answer.text


def differ(one: Answered, other: Answered) -> bool | None:
    """Whether two runs answered an item differently; by right and wrong where an answer is not known."""
    if one.said is not None and other.said is not None:
        return one.said != other.said
    return None if one.right is None or other.right is None else one.right != other.right


@dataclass(frozen=True)
class RunItems:
    """The test items of a run.

    Attributes:
        data: fingerprint of the test data: items of equal data are the same, known or not.
        parts: items by part, in the order of their ids.
        holes: what is not known of them, and why.
    """

    data: str | None
    parts: Mapping[str, tuple[Answered, ...]]
    holes: tuple[str, ...] = ()


@dataclass
class TestSets:
    """The test sets of benchmarks by their settings, each read once, or why it cannot be."""

    __test__ = False  # pytest would take it for a test case because of its name

    _read: dict[str, tuple[str, dict[str, list[Item]]] | str] = field(default_factory=dict)

    def items(self, benchmark: Benchmark, result: Result) -> dict[str, list[Item]] | str:
        """The items of a run by part, in the order of their ids; or why they are not known."""
        key = benchmark.model_dump_json()
        if key not in self._read:
            self._read[key] = _test_set(benchmark)
        found = self._read[key]
        if isinstance(found, str):
            return found
        if found[0] != result.data_fingerprints.get("test"):
            return "the test data here are not those of the run"
        return found[1]


def _test_set(benchmark: Benchmark) -> tuple[str, dict[str, list[Item]]] | str:
    if getattr(benchmark, "source", None) == "hub":
        return "the test data are on the hub, which is not asked for them"
    try:
        records = benchmark.test_records()
    except (DataError, ImportError) as error:
        return one_line(str(error))
    parts: dict[str, list[Item]] = {}
    for item in sorted(map(benchmark.item, records)):
        parts.setdefault(item.part, []).append(item)
    return fingerprint(records), parts


def run_items(spec: RunSpec, result: Result, store: Store, sets: TestSets) -> RunItems:
    """The test items of a finished run, with all that is known of its answers."""
    holes: list[str] = []
    texts = sets.items(spec.benchmark, result)
    if isinstance(texts, str):
        holes.append(f"no questions: {texts}")
        texts = {}
    answers = _answers(spec, store, holes)
    parts: dict[str, tuple[Answered, ...]] = {}
    for part, count in _sizes(spec, result).items():
        score = result.scores.get(part)
        items = texts.get(part) or _unnamed(part, count, answers)
        judged = _judged(score)
        if judged is not None and len(judged) != len(items):
            holes.append(f"{part}: outcomes of {len(judged)} items, but {len(items)} are known")
            continue
        known = [answers.get(item.id) or _implied(item, judged, i, score) for i, item in enumerate(items)]
        parts[part] = tuple(
            Answered(item, _right(item, answer) if judged is None else judged[i], answer)
            for i, (item, answer) in enumerate(zip(items, known, strict=True))
        )
    return RunItems(result.data_fingerprints.get("test"), parts, tuple(holes))


def compared(one: RunItems, other: RunItems) -> Iterator[tuple[Answered, Answered]]:
    """The items of two runs side by side.

    Raises:
        ConfigError: the two were tested on different items.
    """
    sizes = [{part: len(items) for part, items in run.parts.items()} for run in (one, other)]
    if one.data is None or one.data != other.data or sizes[0] != sizes[1]:
        raise ConfigError("the two runs were tested on different items; compare two that share them")
    for part, items in one.parts.items():
        yield from zip(items, other.parts[part], strict=True)


def _answers(spec: RunSpec, store: Store, holes: list[str]) -> dict[str, Answer]:
    """Answers by item; none, and a hole, without readable predictions."""
    if not store.predictions_file(spec).exists():
        holes.append(
            "the run's predictions are not stored here: an answer is known only where its being right or "
            "wrong leaves no doubt, and no scores are"
        )
        return {}
    try:
        predictions = by_id(store.predictions(spec))
        return {str(prediction["id"]): spec.benchmark.answer(dict(prediction)) for prediction in predictions}
    except (DamagedFile, DataError) as error:
        holes.append(f"no answers: {one_line(str(error))}")
        return {}


def _sizes(spec: RunSpec, result: Result) -> dict[str, int]:
    """The parts of a run with their numbers of items."""
    if spec.benchmark.shares_items:
        return {spec.benchmark.family: result.evaluation.items}
    return {name: result.scores[name].items for name in spec.benchmark.columns if name in result.scores}


def _unnamed(part: str, count: int, answers: Mapping[str, Answer]) -> list[Item]:
    """Items of which nothing but the id is known, or nothing but their number."""
    named = [name for name in answers if name.startswith(f"{part}/")]
    numbered = [f"{part} {number}" for number in range(1, count + 1)]
    return [Item(name, part, "") for name in (named if len(named) == count else numbered)]


def _judged(score: TaskScore | None) -> list[bool] | None:
    """Right or wrong by item, of an accuracy."""
    if score is None or not isinstance(score.outcomes, str):
        return None
    return [outcome == "1" for outcome in score.outcomes]


def _right(item: Item, answer: Answer | None) -> bool | None:
    return None if answer is None or item.gold is None else answer.choice == item.gold


def _implied(item: Item, judged: Sequence[bool] | None, place: int, score: TaskScore | None) -> Answer | None:
    """The answer that an outcome leaves no doubt of: the right one, or the other one of two."""
    if item.gold is None or judged is None or score is None:
        return None
    if judged[place]:
        return Answer(item.gold)
    return Answer(1 - item.gold) if len(item.options) == 2 and not score.unparsed else None
