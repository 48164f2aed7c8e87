"""From the family's settings to data, module and scores, on a source of a few records a task."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.commonsense import benchmark as module
from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.benchmarks.commonsense.protocols import Cloze
from repro.benchmarks.commonsense.records import TASKS, Record, Split, build_records
from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.benchmarks.sources import Sources
from repro.training import causal_lm
from repro.training.data import DataError
from repro.training.finetuning_data import FineTuningData
from repro.training.spec import TrainingSpec
from tests.tiny_models import run_context

TASK_NAMES = ("boolq", "piqa", "ARC-Easy")
OPTIONS = {"boolq": ("true", "false"), "piqa": ("by night", "by day"), "ARC-Easy": ("a", "bee", "sea", "dee")}

TRAINING = TrainingSpec(
    epochs=1, batch_size=4, learning_rate=1e-3, warmup_steps=0, loss_on="completion", append_eos=True
)


class Play:
    """Nine training and seven test records of every task, questions of many lengths."""

    note = "made up"

    def load(self, task: str, split: Split) -> list[Record]:
        count = {"train": 9, "test": 7}[split]
        contents = [
            (f"{split} {number} of {task}{number * '?'}", OPTIONS[task], number % 2)
            for number in range(count)
        ]
        return build_records(task, split, contents)


Data = Callable[..., FineTuningData]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase) -> Data:
    monkeypatch.setattr(module, "SOURCES", Sources("played", local=Play))

    def made(
        seed: int = 0,
        evaluation_tokens: int = 300,
        training: TrainingSpec = TRAINING,
        tokenizer: PreTrainedTokenizerBase = tokenizer,
        **settings: Any,
    ) -> FineTuningData:
        context = run_context(tokenizer, training, seed=seed, evaluation_tokens=evaluation_tokens)
        return commonsense(**settings).data(context)

    return made


def commonsense(**settings: Any) -> Commonsense:
    defaults = {"source": "local", "tasks": TASK_NAMES, "protocol": ClozeSettings()}
    return Commonsense(**defaults | settings)


def texts(loader: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every text of a loader's batches, whose rows may hold several; padding and special tokens dropped."""
    rows = [row for batch in loader for micro in batch["micro_batches"] for row in micro["input_ids"]]
    found = [text for row in rows for text in tokenizer.decode(row).split(tokenizer.bos_token)[1:]]
    return [text.replace(tokenizer.pad_token, "").replace(tokenizer.eos_token, "") for text in found]


def test_all_is_trained_on_but_what_is_held_out(data: Data, tokenizer: PreTrainedTokenizerBase) -> None:
    """Under cloze a text is the question and the right option."""
    endings = {"boolq": ("yes", "no")}
    expected = {
        f"Question: train {number} of {task}{number * '?'}{'?' * (task == 'boolq')}\nAnswer: "
        + endings.get(task, OPTIONS[task])[number % 2]
        for task in TASK_NAMES
        for number in range(9)
    }
    made = data(validation_size=5)
    trained = texts(made.train_dataloader(), tokenizer)
    held_out = texts(made.val_dataloader(), tokenizer)
    assert (len(trained), len(held_out), made.steps) == (22, 5, 6)
    assert set(trained) | set(held_out) == expected
    assert not set(trained) & set(held_out)


def test_the_runs_seed_shuffles_and_the_datas_seed_chooses(
    data: Data, tokenizer: PreTrainedTokenizerBase
) -> None:
    def parts(made: FineTuningData) -> tuple[list[str], list[str]]:
        return texts(made.train_dataloader(), tokenizer), texts(made.val_dataloader(), tokenizer)

    settings: dict[str, Any] = {"train_per_task": 4, "test_per_task": 3, "validation_size": 2}
    one, two, other = data(seed=0, **settings), data(seed=1, **settings), data(data_seed=1, **settings)
    assert one.fingerprints == two.fingerprints
    assert not one.fingerprints.items() & other.fingerprints.items()
    assert parts(one)[0] != parts(two)[0]
    assert sorted(parts(one)[0]) == sorted(parts(two)[0])
    assert parts(one)[1] == parts(two)[1]
    assert (len(parts(one)[0]), len(parts(one)[1])) == (10, 2)
    assert sum(len(batch) for batch in one.test_batches) == 9


@pytest.mark.parametrize("protocol", [ClozeSettings(), GenerateSettings()], ids=lambda p: p.name)
@pytest.mark.parametrize("tokens", [1, 120, 1_000, 10**6])
def test_test_batches_hold_every_item_once_within_the_bound(
    data: Data, tokenizer: PreTrainedTokenizerBase, protocol: ClozeSettings | GenerateSettings, tokens: int
) -> None:
    batches = data(protocol=protocol, evaluation_tokens=tokens).test_batches
    items = [item for batch in batches for item in batch]
    lengths = [
        len(tokenizer(protocol.protocol().prompt(item.record)).input_ids)
        if isinstance(protocol, GenerateSettings)
        else len(item.options.context) + sum(map(len, item.options.continuations))
        for item in items
    ]
    assert sorted(item.record.id for item in items) == sorted(
        record.id for task in TASK_NAMES for record in Play().load(task, "test")
    )
    assert lengths == sorted(lengths, reverse=True)  # a batch too large for the memory comes first
    longest = iter(lengths)
    for batch in batches:
        of_batch = [next(longest) for _ in batch]
        padded = len(batch) * max(of_batch)
        # Items of a cloze share rows, prompts have one each.
        size = padded if isinstance(protocol, GenerateSettings) else sum(of_batch)
        assert len(batch) == 1 or size <= tokens
    assert len(batches) in {1: [21], 10**6: [1]}.get(tokens, range(2, 22))


def test_only_training_texts_are_cut(data: Data, tokenizer: PreTrainedTokenizerBase) -> None:
    made = data(protocol=GenerateSettings(), max_tokens=40)
    rows = [m["input_ids"].shape[1] for batch in made.train_dataloader() for m in batch["micro_batches"]]
    assert max(rows) == 40
    prompts = [item.prompt for batch in made.test_batches for item in batch]
    assert min(len(prompt) for prompt in prompts) > 200
    assert all(prompt[0] == tokenizer.bos_token_id for prompt in prompts)


def test_a_text_that_is_too_long_loses_the_beginning_of_its_question(
    data: Data, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model's tokens are bytes."""

    def load(self: Play, task: str, split: Split) -> list[Record]:
        questions = [f"{split} {20 * number * '?'}{number}" for number in range(9)]
        return build_records(task, split, [(question, OPTIONS[task], 0) for question in questions])

    monkeypatch.setattr(Play, "load", load)
    protocol = GenerateSettings().protocol()
    made = data(tasks=("piqa",), protocol=GenerateSettings(), max_tokens=480, truncation="context")
    found = texts(made.train_dataloader(), tokenizer)
    expected = set()
    for record in Play().load("piqa", "train"):
        text, head = "".join(protocol.training_text(record)), protocol.training_head(record)
        excess = max(0, len(text) + 2 - 480)  # with the start and the end
        expected.add(head + text[len(head) + excess :])
    assert set(found) == expected
    cut = sum(len(text) == 478 for text in found)
    assert made.truncated == {"all": cut / 9, "piqa": cut / 9} and 0 < cut < 9


@pytest.mark.parametrize(
    "protocol",
    [ClozeSettings(), GenerateSettings(), GenerateSettings(template="hira")],
    ids=["cloze", "llm-adapters", "hira"],
)
def test_the_question_follows_the_head(protocol: ClozeSettings | GenerateSettings) -> None:
    for task in TASKS:
        question = "Where is _ now"
        (record,) = build_records(task, "train", [(question, TASKS[task].labels[:2], 0)])
        texts = protocol.protocol()
        prompt, _ = texts.training_text(record)
        # WinoGrande's context under cloze ends at the blank.
        assert prompt.startswith(texts.training_head(record) + "Where is")


def test_texts_are_tokenised_once_for_all_runs_that_share_them(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = causal_lm.encode_example

    def counted(tokenizer: Any, prompt: str, completion: str, **settings: Any) -> causal_lm.Example:
        encoded.append(prompt)
        return encode(tokenizer, prompt, completion, **settings)

    monkeypatch.setattr(causal_lm, "encode_example", counted)
    settings: dict[str, Any] = {"data_seed": 77, "validation_size": 2}  # no other test has stored these
    data(**settings)
    assert len(encoded) == 27
    data(seed=3, evaluation_tokens=50, **settings)
    assert len(encoded) == 27
    data(training=TRAINING.model_copy(update={"append_eos": False}), **settings)
    assert len(encoded) == 54
    data(max_tokens=100, **settings)
    assert len(encoded) == 81
    # The same records in other words, as after a change of the protocol's code.
    monkeypatch.setattr(Cloze, "training_text", lambda self, record: (record.question, " yes"))
    data(**settings)
    assert len(encoded) == 108


def test_two_tokenizers_that_differ_in_their_end_token_alone_share_no_cache(
    data: Data, tokenizer: PreTrainedTokenizerBase
) -> None:
    """As LLaMA 3 and its Instruct model do: same vocabulary, another token behind every training text."""

    def last_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
        batches = data(data_seed=78, tokenizer=tokenizer).train_dataloader()
        labels = [row for batch in batches for m in batch["micro_batches"] for row in m["labels"].tolist()]
        return {[token for token in row if token != -100][-1] for row in labels}

    other = copy.deepcopy(tokenizer)
    other.eos_token = "<unk>"
    assert last_tokens(tokenizer) == {tokenizer.eos_token_id}
    assert last_tokens(other) == {tokenizer.unk_token_id}


def test_scores_do_not_depend_on_the_order_of_the_predictions() -> None:
    predictions = [
        {
            "task": task,
            "id": f"{task}/{number}",
            "gold": 0,
            "log_likelihoods": values,
            "normalisers": [1.0, 1.0],
        }
        for task in TASK_NAMES
        for number, values in enumerate([[-1.0, -2.0], [-1.0, -3.0], [-2.0, -1.0]])
    ]
    scores = commonsense().score(predictions[::-1])
    assert list(scores) == list(TASK_NAMES)
    assert {score.outcomes for score in scores.values()} == {"110"}
    assert scores == commonsense().score(predictions)


def test_the_columns_are_the_papers() -> None:
    assert list(Commonsense(source="local", protocol=ClozeSettings()).columns.values()) == [
        task.title for task in TASKS.values()
    ]
    assert commonsense().columns == {"boolq": "BoolQ", "piqa": "PIQA", "ARC-Easy": "ARC-e"}


def test_held_out_records_are_not_trained_on_and_leave_the_training_as_it_is(
    data: Data, tokenizer: PreTrainedTokenizerBase
) -> None:
    usual = data(train_per_task=5, test_per_task=3)
    held_out = data(train_per_task=5, test_per_task=3, evaluated="held_out")
    assert held_out.fingerprints["train"] == usual.fingerprints["train"]
    scored = [item.record for batch in held_out.test_batches for item in batch]
    assert len(scored) == 9
    assert all(record.question.startswith("train ") for record in scored)
    trained = "\n".join(texts(held_out.train_dataloader(), tokenizer))
    assert not any(f"{record.question}" in trained for record in scored)
    # Without a size, everything else is trained on: 9 - 3 records of three tasks.
    assert len(texts(data(test_per_task=3, evaluated="held_out").train_dataloader(), tokenizer)) == 18
    with pytest.raises(ValueError, match="held_out needs test_per_task"):
        data(evaluated="held_out")


class Leaking(Play):
    """The first training question of PIQA is tested, its options the other way round; in BoolQ every one."""

    def load(self, task: str, split: Split) -> list[Record]:
        records = super().load(task, split)
        if split == "train" or task not in ("piqa", "boolq"):
            return records
        train = super().load(task, "train")
        if task == "boolq":
            return build_records(task, split, [(r.question, r.options, r.gold) for r in train])
        first = (train[0].question, train[0].options[::-1], 1)
        return build_records(task, split, [first, *((r.question, r.options, r.gold) for r in records)])


def test_test_items_that_are_trained_on_are_counted_and_many_refused(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data().warnings == ()
    monkeypatch.setattr(module, "SOURCES", Sources("played", local=Leaking))
    with pytest.raises(
        DataError, match="boolq: 9 of the 9 test items are in the training set, more than 5 %"
    ):
        data()
    # Whole sets are compared, though these few records differ.
    with pytest.raises(DataError, match=r"piqa: 1 of the 8 test items .*; use other files, or raise"):
        data(tasks=("piqa",), train_per_task=1, test_per_task=1)
    assert data(tasks=("piqa",), allowed_overlap=0.2).warnings == (
        "piqa: 1 of the 8 test items are in the training set",
    )
    assert len(data(allowed_overlap=1.0).warnings) == 2


def test_copies_of_a_held_out_record_are_not_trained_on(
    data: Data, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase
) -> None:
    class Repeating(Play):
        def load(self, task: str, split: Split) -> list[Record]:
            once = [(r.question, r.options, r.gold) for r in super().load(task, split)]
            return build_records(task, split, once * 2)

    monkeypatch.setattr(module, "SOURCES", Sources("played", local=Repeating))
    made = data(tasks=("piqa",), test_per_task=6, evaluated="held_out")
    trained = "\n".join(texts(made.train_dataloader(), tokenizer))
    scored = {item.record.question for batch in made.test_batches for item in batch}
    assert trained and not any(f"{question}\n" in trained for question in scored)


def test_the_overlap_is_no_part_of_a_specs_hash() -> None:
    assert "allowed_overlap" not in commonsense().model_dump()
    assert commonsense(allowed_overlap=0.5).model_dump()["allowed_overlap"] == 0.5
