"""Protocols: golden cases of the answer extractor, golden texts of both elicitations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from repro.benchmarks.commonsense.prompts import HIRA, LLM_ADAPTERS
from repro.benchmarks.commonsense.protocols import Cloze, Generate, read_label
from repro.benchmarks.commonsense.records import TASKS, Record, build_records


def _record(task: str, question: str, options: tuple[str, ...], gold: int = 0) -> Record:
    return build_records(task, "test", [(question, options, gold)])[0]


@pytest.mark.parametrize(
    ("task", "text", "first", "strict"),
    [
        ("boolq", "the correct answer is true", 0, 0),
        ("boolq", "the correct answer is false</s>", 1, None),
        ("boolq", "false", 1, 1),
        ("boolq", "That is untrue, so false", 0, None),  # a label inside a word counts
        ("boolq", "True", None, None),  # case-sensitive
        ("boolq", "yes", None, None),
        ("boolq", "", None, None),
        ("piqa", "the correct answer is solution2.", 1, 1),
        ("piqa", "solution1 or solution2? solution2", 0, None),  # the first one counts
        ("piqa", "the correct answer is solution3", None, None),
        ("social_i_qa", "\n  the correct answer is answer3 \nanswer1", 2, 2),
        ("social_i_qa", "the correct answer is answer5", 4, 4),  # SIQA has three options, upstream reads five
        ("hellaswag", "the correct answer is ending 4", None, None),
        ("hellaswag", "the correct answer is ending4 because it fits", 3, None),
        ("winogrande", "option2", 1, 1),
        ("ARC-Easy", "the correct answer is answer10", 0, None),
        ("ARC-Challenge", "Answer format: answer1/answer2", 0, None),
        ("openbookqa", "the correct answer is the correct answer is answer4", 3, None),
    ],
)
def test_reading_a_generated_text(task: str, text: str, first: int | None, strict: int | None) -> None:
    assert read_label(task, text, "first") == first
    assert read_label(task, text, "strict") == strict


@pytest.mark.parametrize("task", TASKS)
def test_every_trained_completion_reads_as_its_gold(
    task: str, paper_test: Callable[[str], list[Record]]
) -> None:
    """So HiRA's comparison with the first label of the gold text is a comparison with the gold label."""
    for reading in ("first", "strict"):
        protocol = Generate(reading=reading)
        for record in paper_test(task)[:300]:
            assert protocol.extract(record, protocol.training_text(record)[1]) == record.gold


@pytest.mark.parametrize("template", [LLM_ADAPTERS, HIRA])
def test_generate_wraps_the_instruction(template) -> None:
    record = _record("winogrande", "Ann beat Eve so _ won.", ("Ann", "Eve"), gold=1)
    instruction = (
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "Ann beat Eve so _ won.\n\nOption1: Ann Option2: Eve Answer format: option1/option2"
    )
    protocol = Generate(template=template)
    assert protocol.prompt(record) == template.evaluation_prompt(instruction)
    assert protocol.training_text(record) == (
        template.training_prompt(instruction),
        "the correct answer is option2",
    )


@pytest.mark.parametrize(
    ("record", "context", "continuations", "normalisers"),
    [
        (
            _record("boolq", "is water wet", ("true", "false")),
            "Question: is water wet?\nAnswer:",
            [" yes", " no"],
            [1, 1],
        ),
        (
            _record("piqa", "open a jar", ("twist the lid ", "freeze it")),
            "Question: open a jar\nAnswer:",
            [" twist the lid", " freeze it"],
            [13, 9],
        ),
        (
            _record("social_i_qa", "Kim ran. Why?", ("late", "bored", "fit")),
            "Question: Kim ran. Why?\nAnswer:",
            [" late", " bored", " fit"],
            [4, 5, 3],
        ),
        (
            _record(
                "hellaswag",
                "Pets: [header] How to wash a cat [title] Prepare. [step] Get a tub.",
                ("Fill it. [substeps] Warm.", "Leave.", "Sing.", "Vote."),
            ),
            "Pets: How to wash a cat. Prepare. Get a tub.",
            [" Fill it. Warm.", " Leave.", " Sing.", " Vote."],
            [14, 6, 5, 5],
        ),
        (
            _record("winogrande", "Ann beat Eve, so _'s team won. ", ("Ann", "Eve")),
            "Ann beat Eve, so",
            [" Ann's team won.", " Eve's team won."],
            [1, 1],
        ),
        (
            _record("ARC-Easy", "Which is red?", ("sky", "grass", "blood")),
            "Question: Which is red?\nAnswer:",
            [" sky", " grass", " blood"],
            [3, 5, 5],
        ),
        (
            _record("openbookqa", "Frogs are", ("red", "green", "blue", "wet")),
            "Question: Frogs are\nAnswer:",
            [" red", " green", " blue", " wet"],
            [3, 5, 4, 3],
        ),
    ],
    ids=lambda value: value.task if isinstance(value, Record) else "",
)
def test_cloze_texts(
    record: Record, context: str, continuations: list[str], normalisers: list[float]
) -> None:
    assert Cloze().options(record) == (context, continuations, normalisers)


@pytest.mark.parametrize("task", TASKS)
def test_cloze_suits_every_test_item(task: str, paper_test: Callable[[str], list[Record]]) -> None:
    protocol = Cloze()
    for record in paper_test(task):
        context, continuations, normalisers = protocol.options(record)
        assert context and context == context.strip()
        assert len(continuations) == len(normalisers) == len(record.options)
        assert all(text.startswith(" ") and text[1:].strip() == text[1:] != "" for text in continuations)
        assert all(normaliser > 0 for normaliser in normalisers)
        assert protocol.training_text(record) == (context, continuations[record.gold])
