"""Log-probabilities of gold answers, against torch in float64 and against references read one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.commonsense import scoring as commonsense
from repro.benchmarks.commonsense.module import CommonsenseModule
from repro.benchmarks.commonsense.module import encode_items as encode_questions
from repro.benchmarks.commonsense.protocols import Generate
from repro.benchmarks.commonsense.records import build_records
from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.benchmarks.e2e.benchmark import E2E
from repro.benchmarks.e2e.module import Decoding, E2EModule, encode_items, prompt_text
from repro.benchmarks.e2e.records import grouped, read_rows
from repro.benchmarks.glue import scoring as glue
from repro.benchmarks.glue.benchmark import Glue
from repro.benchmarks.gold_probability import FLOOR, gold_log_probability, stored
from repro.training.causal_finetuning import CausalFineTuning
from repro.training.data import DataError
from repro.training.spec import TrainingSpec
from tests.tiny_models import run_context

# What is stored is rounded to a thousandth.
ROUNDED = 0.5001e-3

TRAINING = TrainingSpec(
    epochs=1, batch_size=1, learning_rate=1e-3, warmup_steps=0, loss_on="completion", append_eos=True
)


def softmaxed(scores: np.ndarray, gold: int) -> float:
    return float(torch.tensor(scores, dtype=torch.float64).log_softmax(-1)[gold])


def options(rows: list[np.ndarray], normalisers: list[np.ndarray], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "task": "piqa", "id": f"piqa/{i}", "gold": i % len(row), "log_likelihoods": row.tolist(),
            "normalisers": own.tolist(), **more,
        }
        for i, (row, own) in enumerate(zip(rows, normalisers, strict=True))
    ]  # fmt: skip


def test_an_options_probability_is_on_the_scale_of_whole_options_and_keeps_the_choice() -> None:
    generator = np.random.default_rng(0)
    rows = [-generator.uniform(10, 30, size=2 + i % 4) for i in range(40)]
    lengths = [generator.integers(8, 30, size=len(row)).astype(float) for row in rows]
    found = commonsense.score("piqa", options(rows, lengths))
    scores = [row / own * own.mean() for row, own in zip(rows, lengths, strict=True)]
    expected = [softmaxed(score, i % len(score)) for i, score in enumerate(scores)]
    assert found.log_probabilities == pytest.approx(expected, abs=ROUNDED)
    right = [int(score.argmax() == i % len(score)) for i, score in enumerate(scores)]
    assert found.outcomes == "".join(map(str, right))
    # More probable than not is the choice, whatever the normalisers.
    assert all(
        outcome == "1" for outcome, p in zip(found.outcomes, expected, strict=True) if p > math.log(0.5)
    )


def test_the_text_decides_and_the_trained_sentences_are_weighed() -> None:
    rows = [np.array([-3.0, -1.0]), np.array([-0.5, -9.0])]
    predictions = options(rows, [np.ones(2)] * 2, text="the correct answer is solution1")
    found = commonsense.score("piqa", predictions)
    assert (found.metric, found.outcomes) == ("accuracy (generate)", "10")
    assert found.log_probabilities == pytest.approx(
        [softmaxed(rows[0], 0), softmaxed(rows[1], 1)], abs=ROUNDED
    )
    older = [{k: v for k, v in p.items() if k not in ("log_likelihoods", "normalisers")} for p in predictions]
    assert commonsense.score("piqa", older).log_probabilities == ()
    with pytest.raises(DataError, match="prediction 'piqa/1' lacks the log_likelihoods that others have"):
        commonsense.score("piqa", [predictions[0], older[1]])


@pytest.mark.parametrize(("task", "classes"), [("mnli", 3), ("cola", 2), ("stsb", 1)])
def test_a_class_has_the_log_softmax_of_its_logit(task: str, classes: int) -> None:
    logits = np.random.default_rng(1).normal(scale=4, size=(9, classes))
    gold = np.arange(9) % max(2, classes)
    predictions = [
        {"task": task, "id": f"{i}", "gold": float(g), "logits": row.tolist()}
        for i, (row, g) in enumerate(zip(logits, gold, strict=True))
    ]
    found = glue.score(task, predictions).log_probabilities
    if classes == 1:
        assert found == () and task not in Glue.gold_columns()
        return
    assert found == pytest.approx(
        [softmaxed(row, g) for row, g in zip(logits, gold, strict=True)], abs=ROUNDED
    )
    predictions[3]["logits"] = [math.nan] * classes
    assert glue.score(task, predictions).log_probabilities[3] == FLOOR


def test_what_is_no_finite_number_is_the_floor() -> None:
    assert gold_log_probability([math.nan, 1.0], 1) == FLOOR
    assert gold_log_probability([-math.inf, 1.0], 0) == FLOOR
    assert gold_log_probability([-math.inf, -math.inf], 0) == FLOOR
    assert gold_log_probability([math.inf, 1.0], 0) == FLOOR
    assert gold_log_probability([-500.0, 1.0], 0) == FLOOR
    assert gold_log_probability([-math.inf, 1.0], 1) == 0
    # JSON would say -0.0.
    assert str(stored(-1e-9)) == str(stored(1e-9)) == "0.0"


# --- models -------------------------------------------------------------------------------------------------


def one_by_one(model: nn.Module, context: list[int], continuation: list[int]) -> float:
    """The log-likelihood of a continuation in nats, by a plain pass over the two alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(continuation)), continuation].sum())


def counted_passes(module: CausalFineTuning, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each pass that computes likelihoods, filled as these are made."""
    from repro.training import causal_finetuning

    sizes: list[int] = []
    original = causal_finetuning.option_log_likelihoods

    def counted(model: nn.Module, items: Any, **more: Any) -> list[list[float]]:
        sizes.append(sum(map(len, items)))
        return original(model, items, **more)

    monkeypatch.setattr(causal_finetuning, "option_log_likelihoods", counted)
    return sizes


def test_references_are_those_of_plain_passes(
    base: nn.Module, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    texts = [
        ("name[B]", "B is it."),
        ("name[B]", "It is B, yes."),
        ("name[Owl], area[riverside]", "By a river: Owl"),
    ]
    records = grouped(read_rows([{"mr": mr, "ref": ref} for mr, ref in texts], ("mr", "ref"), "here"))
    context = run_context(tokenizer, TRAINING, evaluation_tokens=50)
    module = E2EModule(base, context, 0, Decoding(2, 3, 0.9, 4)).eval()
    sizes = counted_passes(module, monkeypatch)
    predictions = module.predict(encode_items(records, tokenizer))
    assert len(sizes) == 2  # each of up to 50 tokens, or one item
    expected = []
    for record, prediction in zip(records, predictions, strict=True):
        prompt = tokenizer(prompt_text(record, tokenizer)).input_ids
        references = [tokenizer(f" {r}", add_special_tokens=False).input_ids for r in record.references]
        alone = [one_by_one(base, prompt, reference) for reference in references]
        assert prediction["log_likelihoods"] == pytest.approx(alone, abs=1e-4)
        assert prediction["normalisers"] == [len(reference) for reference in references]
        each = [value / len(reference) for value, reference in zip(alone, references, strict=True)]
        expected.append((record.id, sum(each) / len(each)))
    benchmark = E2E(source="synthetic")
    scores = benchmark.score(predictions)
    # In the order of ids, and once for all columns.
    assert scores["bleu"].log_probabilities == pytest.approx([p for _, p in sorted(expected)], abs=ROUNDED)
    assert not any(scores[column].log_probabilities for column in list(benchmark.columns)[1:])
    older = [{k: p[k] for k in ("id", "gold", "text")} for p in predictions]
    assert benchmark.score(older)["bleu"].log_probabilities == ()
    with pytest.raises(DataError, match="2 references, 1 log_likelihoods and 2 normalisers"):
        benchmark.score([predictions[0] | {"log_likelihoods": [-1.0]}, predictions[1]])


@pytest.mark.parametrize("retries", [True, False])
def test_under_generate_one_of_the_sentences_is_what_was_trained(
    base: nn.Module, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, retries: bool
) -> None:
    contents = [("Why", ["so", "no", "yes"], 1), ("To be", ["or not", "and"], 0)]
    records = build_records("openbookqa", "test", contents)
    context = run_context(tokenizer, TRAINING, evaluation_tokens=300)
    module = CommonsenseModule(base, context, 0, GenerateSettings(beams=1, max_new_tokens=2)).eval()
    module.retries = retries
    sizes = counted_passes(module, monkeypatch)
    items = encode_questions(records, GenerateSettings(), tokenizer)
    predictions = module.predict(items)
    assert len(sizes) == (2 if retries else 1)  # the processes of a sharded model make equally many
    for record, item, prediction in zip(records, items, predictions, strict=True):
        prompt = tokenizer(Generate().prompt(record)).input_ids
        assert item.prompt == tuple(prompt) and item.tokens == len(prompt)
        sentences = [f"the correct answer is {label}" for label in record.labels]
        ids = [tokenizer(sentence, add_special_tokens=False).input_ids for sentence in sentences]
        assert prediction["log_likelihoods"] == pytest.approx(
            [one_by_one(base, prompt, own) for own in ids], abs=1e-4
        )
        assert Generate().training_text(record)[1] == sentences[record.gold]
    found = commonsense.score("openbookqa", predictions)
    assert found.log_probabilities == pytest.approx(
        [softmaxed(np.array(p["log_likelihoods"]), p["gold"]) for p in predictions], abs=ROUNDED
    )


@pytest.mark.parametrize("protocol", [ClozeSettings(), GenerateSettings()], ids=lambda p: p.name)
def test_a_test_item_counts_as_before(
    tokenizer: PreTrainedTokenizerBase, protocol: ClozeSettings | GenerateSettings
) -> None:
    """Batches of generated texts are those of version 1: near ties of two beams would fall otherwise."""
    (record,) = build_records("piqa", "test", [("Why", ["fortune", "the law's delay"], 1)])
    (item,) = encode_questions([record], protocol, tokenizer)
    prompt = len(item.options.context)
    assert item.tokens == (prompt if protocol.name == "generate" else len(item.options)) > 0
