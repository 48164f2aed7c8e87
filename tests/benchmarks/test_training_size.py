"""What a plan says about the training data, against the data."""

from __future__ import annotations

from typing import Any

import pytest

from repro.benchmarks.base import parse_benchmark
from repro.benchmarks.commonsense.protocols import Cloze
from repro.benchmarks.commonsense.records import TASKS
from repro.benchmarks.commonsense.sizes import MEAN_TOKENS, PACKAGE_TRAIN_SIZES
from repro.benchmarks.commonsense.sources import SOURCES as COMMONSENSE_SOURCES
from repro.benchmarks.e2e.records import pairs
from repro.benchmarks.e2e.sources import SOURCES as E2E_SOURCES
from repro.benchmarks.glue.records import TASKS as GLUE_TASKS
from repro.benchmarks.glue.records import get_task
from repro.benchmarks.glue.sources import SOURCES as GLUE_SOURCES
from repro.models.loading import load_tokenizer
from repro.models.spec import load_model_spec
from repro.training.spec import TrainingSpec

TRAINING = TrainingSpec(
    epochs=1, batch_size=8, learning_rate=1e-3, warmup_steps=0, loss_on="completion", append_eos=True
)
VOCABULARY = 32_000
COMMONSENSE = {"family": "commonsense", "source": "hub", "protocol": {"name": "generate"}}


def examples(**settings: Any) -> int:
    return parse_benchmark(settings).training_size(TRAINING, VOCABULARY).examples


def test_the_package_holds_what_is_said() -> None:
    source = COMMONSENSE_SOURCES.get("package")
    assert {task: len(source.load(task, "train")) for task in TASKS} == PACKAGE_TRAIN_SIZES
    for task in ("mrpc", "rte", "sst2"):
        loaded = len(GLUE_SOURCES.get("package").load(get_task(task), "train"))
        # Halved by the draw of each record.
        assert examples(family="glue", source="package", tasks=[task]) == pytest.approx(loaded, rel=0.06)
    synthetic = len(pairs(E2E_SOURCES.get("synthetic").load("train")))
    assert examples(family="e2e", source="synthetic") == synthetic


def test_commonsense_170k_less_what_is_held_out() -> None:
    assert examples(**COMMONSENSE) == 170_420
    assert examples(**COMMONSENSE, validation_size=120) == 170_300
    assert examples(**COMMONSENSE, train_per_task=1_000) == 8 * 1_000
    held_out = {"evaluated": "held_out", "test_per_task": 500}
    assert examples(**COMMONSENSE, **held_out) == 170_420 - 8 * 500


def test_a_loss_on_all_tokens_predicts_all_but_the_first() -> None:
    benchmark = parse_benchmark(COMMONSENSE | {"tasks": ["boolq"], "train_per_task": 10})
    text, completion = MEAN_TOKENS[VOCABULARY]["generate"]["boolq"]
    size = benchmark.training_size(TRAINING, VOCABULARY)
    assert size.tokens == pytest.approx(10 * text)
    assert size.predicted == pytest.approx(10 * completion)
    everything = benchmark.training_size(TRAINING.model_copy(update={"loss_on": "all"}), VOCABULARY)
    assert everything.predicted == pytest.approx(10 * (text - 1))
    without_end = benchmark.training_size(TRAINING.model_copy(update={"append_eos": False}), VOCABULARY)
    assert size.tokens - without_end.tokens == pytest.approx(10)


def test_tokens_are_those_of_the_models_own_vocabulary() -> None:
    def tokens(vocabulary: int, **settings: Any) -> float:
        size = parse_benchmark(COMMONSENSE | settings).training_size(TRAINING, vocabulary)
        return size.tokens / size.examples

    assert tokens(32_000, tasks=["hellaswag"]) == pytest.approx(233.4)
    assert tokens(32_000, tasks=["hellaswag"], max_tokens=100) == pytest.approx(100)
    # LLaMA's, SmolLM2's and Llama 3's; a vocabulary without a count takes the nearest.
    assert tokens(32_000) > tokens(49_152) > tokens(128_256) == tokens(128_000)


@pytest.mark.parametrize("vocabulary", [260, 30_522, 50_257, 50_265, 128_100])
def test_every_task_has_a_size_under_every_vocabulary(vocabulary: int) -> None:
    for family, task in [("glue", name) for name in GLUE_TASKS] + [("e2e", "")]:
        settings = {"family": family, "source": "hub"} | ({"tasks": [task]} if task else {})
        size = parse_benchmark(settings).training_size(TRAINING, vocabulary)
        assert 10 < size.tokens / size.examples < 80


def test_smollm2s_tokens_are_as_said() -> None:
    """Counted by its own tokenizer, which a package holds, on the package's records."""
    tokenizer = load_tokenizer(load_model_spec("smollm2-135m-instruct"))
    cloze = Cloze()
    for task in ("boolq", "ARC-Easy", "openbookqa"):
        records = COMMONSENSE_SOURCES.get("package").load(task, "train")[:200]
        texts = ["".join(cloze.training_text(record)) for record in records]
        mean = sum(map(len, tokenizer(texts).input_ids)) / len(texts) + 1
        assert mean == pytest.approx(MEAN_TOKENS[49_152]["cloze"][task][0], rel=0.1)
