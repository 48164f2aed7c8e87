"""Probes: silent on a healthy model, and each of the faults they are there for is caught by its name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.commonsense.module import CommonsenseModule, TestItem, encode_items
from repro.benchmarks.commonsense.records import build_records
from repro.benchmarks.commonsense.settings import ClozeSettings, GenerateSettings
from repro.config import ConfigError
from repro.methods import Method
from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA
from repro.training.causal_finetuning import CausalFineTuning
from repro.training.finetuning import FineTuning, Prediction
from repro.training.probes import PROBE_ITEMS, Probe, probe
from repro.training.spec import TrainingSpec
from tests.tiny_models import run_context

TRAINING = TrainingSpec(
    epochs=1, batch_size=1, learning_rate=1e-3, warmup_steps=0, loss_on="completion", append_eos=True
)
BATCH, PASSES = "batch of 1 = batch of N", "two passes"
RELOADED, MERGED = "reloaded = in memory", "merged = unmerged"

CLOZE, GENERATE = ClozeSettings(), GenerateSettings(beams=2, max_new_tokens=4)


def distances(probes: Sequence[Probe]) -> dict[str, float | None]:
    return {probe.name: probe.distance for probe in probes}


def broken(probes: Sequence[Probe]) -> list[str]:
    return [probe.name for probe in probes if probe.warning]


# --- the logic, on scripted predictions ---------------------------------------------------------------------


class Scripted(FineTuning):
    """Answers with what its model is: a function of the item and of how many items there are."""

    probe_tolerance = 0.5

    def __init__(self, answer: Callable[[float, int], float]) -> None:
        super().__init__(model_of(answer), run_context(None, TRAINING), steps=0)

    def loss_sum(self, micro_batch: Any) -> Tensor:
        raise NotImplementedError

    def predict(self, items: Sequence[float]) -> list[Prediction]:
        return [{"answer": self.model.answer(item, len(items))} for item in items]

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        return max(
            (abs(a["answer"] - b["answer"]) for a, b in zip(one, other, strict=True)),
            key=lambda d: (d != d, d),
        )


def model_of(answer: Callable[[float, int], float]) -> nn.Module:
    model = nn.Module()
    model.answer = answer
    return model


def healthy(item: float, batch: int) -> float:
    return 10 * item


def test_a_healthy_model_passes_with_all_its_distances_and_is_merged_afterwards() -> None:
    module, merged = Scripted(healthy), model_of(lambda item, batch: 10 * item + 0.25)
    trained = module.model
    given: list[nn.Module] = []

    def merge(model: nn.Module) -> nn.Module:
        given.append(model)
        return merged

    found = probe(module, [1.0, 2.0], reload=lambda model: model_of(healthy), merge=merge)
    assert not broken(found)
    assert distances(found) == {BATCH: 0.0, PASSES: 0.0, RELOADED: 0.0, MERGED: 0.25}
    assert given == [trained]  # not the reloaded one
    assert module.model is merged


def test_what_cannot_be_done_is_not_probed() -> None:
    module = Scripted(healthy)
    trained = module.model
    assert [p.name for p in probe(module, [1.0, 2.0], reload=None, merge=None)] == [BATCH, PASSES]
    found = probe(module, [1.0, 2.0], reload=lambda model: model_of(healthy), merge=None)
    assert [p.name for p in found] == [BATCH, PASSES, RELOADED]
    assert module.model is trained


def restless() -> Callable[[float, int], float]:
    """Another answer in every second pass over two items; equal within one pass and in batches of one."""
    passes = iter([0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    return lambda item, batch: 10 * item + next(passes)


@pytest.mark.parametrize(
    ("name", "answer", "reloaded", "merged"),
    [
        (BATCH, lambda item, batch: item + batch, healthy, healthy),
        (PASSES, restless(), healthy, healthy),
        (RELOADED, healthy, lambda item, batch: 10 * item + 0.51, healthy),
        (RELOADED, healthy, lambda item, batch: 10 * item - 0.51 * (item == 2), healthy),
        (MERGED, healthy, healthy, lambda item, batch: 11 * item),
        (RELOADED, healthy, lambda item, batch: math.nan, healthy),
        (MERGED, healthy, healthy, lambda item, batch: math.inf),
        (BATCH, lambda item, batch: math.nan, healthy, healthy),
    ],
    ids=[
        "batch",
        "passes",
        "reload",
        "reload-one-item",
        "merge",
        "reload-nan",
        "merge-inf",
        "nan-throughout",
    ],
)
def test_a_fault_is_named(name: str, answer: Any, reloaded: Any, merged: Any) -> None:
    module = Scripted(answer)
    found = probe(
        module, [1.0, 2.0], reload=lambda model: model_of(reloaded), merge=lambda model: model_of(merged)
    )
    first = next(p for p in found if p.warning)
    assert first.name == name
    assert str(first.warning).startswith(f"probe '{name}' failed: predictions of the same items differ by ")
    assert "allowed are 0.5;" in str(first.warning)
    assert (first.distance is None) == ("no finite number" in str(first.warning))


def test_what_cannot_be_read_back_is_a_fault_and_the_others_are_probed() -> None:
    def refuse(model: nn.Module) -> nn.Module:
        raise ConfigError("adapter.safetensors: it lacks one\ntensor")

    module = Scripted(healthy)
    found = probe(module, [1.0, 2.0], reload=refuse, merge=lambda model: model)
    assert distances(found) == {BATCH: 0.0, PASSES: 0.0, RELOADED: None, MERGED: 0.0}
    (warning,) = [p.warning for p in found if p.warning]
    assert warning == (
        "probe 'reloaded = in memory' failed: adapter.safetensors: it lacks one tensor; do not trust the "
        "scores before the cause is found"
    )


class ScriptedTexts(CausalFineTuning):
    """Generates the text that its model gives for an item."""

    def predict(self, items: Sequence[int]) -> list[Prediction]:
        return [{"text": self.model.answer(item, len(items))} for item in items]


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1), ("bf16", 2)])
def test_beam_ties_may_change_one_probed_text_in_fp32_and_two_in_bf16(precision: str, allowed: int) -> None:
    """Of the items that a run probes. One more is a fault, whichever probe finds it."""

    def outcome(differing: int) -> Sequence[Probe]:
        training = TRAINING.model_copy(update={"precision": precision})
        module = ScriptedTexts(model_of(lambda item, batch: f"text {item}"), run_context(None, training), 0)
        merged = model_of(lambda item, batch: f"text {item + 100 * (item < differing)}")
        return probe(module, list(range(PROBE_ITEMS)), reload=None, merge=lambda model: merged)

    assert distances(outcome(allowed)) == {BATCH: 0, PASSES: 0, MERGED: allowed / 4}
    assert (broken(outcome(allowed)), broken(outcome(allowed + 1))) == ([], [MERGED])


# --- the commonsense family, on a model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(tokenizer: PreTrainedTokenizerBase) -> Callable[..., CommonsenseModule]:
    def built(
        model: nn.Module, method: Method, protocol: ClozeSettings | GenerateSettings
    ) -> CommonsenseModule:
        return CommonsenseModule(model, run_context(tokenizer, TRAINING, method), 0, protocol).eval()

    return built


@pytest.fixture(scope="module", params=[CLOZE, GENERATE], ids=lambda protocol: protocol.name)
def protocol(request: pytest.FixtureRequest) -> ClozeSettings | GenerateSettings:
    return request.param


@pytest.fixture(scope="module")
def items(protocol: ClozeSettings | GenerateSettings, tokenizer: PreTrainedTokenizerBase) -> list[TestItem]:
    return encoded(protocol, tokenizer)


def encoded(protocol: ClozeSettings | GenerateSettings, tokenizer: PreTrainedTokenizerBase) -> list[TestItem]:
    records = build_records(
        "piqa",
        "test",
        [
            ("To be", ["or not to be", "seen"], 0),
            ("How does one take arms against a sea of troubles", ["by opposing", "to sleep, no more"], 0),
            ("Why", ["fortune", "the law's delay"], 1),
        ],
    )
    return encode_items(records, protocol, tokenizer)


METHODS = [LoRA(rank=2, dropout=0.5), DualLoRA(magnitude_rank=2, init_std=0.2)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_healthy_adapter_passes(
    attach: Callable[..., nn.Module],
    build: Callable[..., CommonsenseModule],
    items: list[TestItem],
    protocol: ClozeSettings | GenerateSettings,
    tmp_path: Path,
    method: Method,
) -> None:
    module = build(attach(method), method, protocol)
    method.save(module.model, tmp_path)

    def reload(model: nn.Module) -> nn.Module:
        method.reload(model, tmp_path)
        return model

    found = distances(probe(module, items, reload=reload, merge=method.merge))
    assert found.keys() == {BATCH, PASSES, RELOADED, MERGED}
    assert max(found.values()) <= 1e-4
    assert not hasattr(module.model, "peft_config")


def test_dropout_in_evaluation_is_caught(
    attach: Callable[..., nn.Module],
    build: Callable[..., CommonsenseModule],
    items: list[TestItem],
    protocol: Any,
) -> None:
    method = METHODS[0]
    module = build(attach(method), method, protocol)
    assert not broken(probe(module, items, reload=None, merge=None))
    assert broken(probe(module.train(), items, reload=None, merge=None))


def test_another_adapter_on_the_disk_is_caught(
    attach: Callable[..., nn.Module],
    build: Callable[..., CommonsenseModule],
    items: list[TestItem],
    protocol: Any,
) -> None:
    module = build(attach(METHODS[0]), METHODS[0], protocol)
    assert RELOADED in broken(
        probe(module, items, reload=lambda model: attach(METHODS[0], seed=1), merge=None)
    )


def test_a_merge_that_drops_the_adapter_is_caught(
    attach: Callable[..., nn.Module],
    build: Callable[..., CommonsenseModule],
    items: list[TestItem],
    protocol: Any,
) -> None:
    module = build(attach(METHODS[0]), METHODS[0], protocol)
    assert MERGED in broken(probe(module, items, reload=None, merge=lambda model: model.unload()))


def scaled_by_size(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * (1 + 0.3 * len(output))


def centred_over_the_batch(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output - output.mean(dim=0)


@pytest.mark.parametrize("fault", [scaled_by_size, centred_over_the_batch])
def test_predictions_that_depend_on_the_batch_are_caught(
    base: nn.Module,
    build: Callable[..., CommonsenseModule],
    items: list[TestItem],
    protocol: ClozeSettings | GenerateSettings,
    fault: Callable[..., Tensor],
) -> None:
    model = copy.deepcopy(base)
    model.model.layers[0].mlp.register_forward_hook(fault)
    assert BATCH in broken(probe(build(model, LoRA(), protocol), items, reload=None, merge=None))


def test_left_padding_without_a_mask_is_caught(
    base: nn.Module, tokenizer: PreTrainedTokenizerBase, build: Callable[..., CommonsenseModule]
) -> None:
    def without_mask(module: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, inputs | {"attention_mask": None, "position_ids": None}

    model = copy.deepcopy(base)
    model.get_decoder().register_forward_pre_hook(without_mask, with_kwargs=True)
    assert BATCH in broken(
        probe(build(model, LoRA(), GENERATE), encoded(GENERATE, tokenizer), reload=None, merge=None)
    )


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_likelihood_that_is_no_number_is_enough(
    base: nn.Module, build: Callable[..., CommonsenseModule], place: int
) -> None:
    """Whatever its place: Python's `max` forgets a NaN that does not come first."""
    module = build(base, LoRA(), CLOZE)
    values = [[-1.0, -2.0], [-3.0]]
    other = [list(row) for row in values]
    row, column = divmod(place, 2)
    other[row][column] = math.nan
    one, two = ([{"log_likelihoods": row} for row in rows] for rows in (values, other))
    assert math.isnan(module.distance(one, two))
    assert module.distance(one, one) == 0


def test_distances_are_in_nats_or_the_share_of_texts(
    base: nn.Module, build: Callable[..., CommonsenseModule]
) -> None:
    likelihoods = [
        [{"log_likelihoods": row} for row in rows]
        for rows in ([[-1.0, -2.0], [-3.0]], [[-1.0, -2.5], [-2.75]])
    ]
    assert build(base, LoRA(), CLOZE).distance(*likelihoods) == pytest.approx(0.5)
    texts = [[{"text": text} for text in row] for row in ("abcd", "abxd")]
    assert build(base, LoRA(), GENERATE).distance(*texts) == 0.25


def test_bf16_is_allowed_to_differ_more(
    base: nn.Module, build: Callable[..., CommonsenseModule], protocol: Any
) -> None:
    module = build(base, LoRA(), protocol)
    full = module.probe_tolerance
    module.training_spec = TRAINING.model_copy(update={"precision": "bf16"})
    assert 0 < full < module.probe_tolerance
