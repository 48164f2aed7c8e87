"""Likelihoods of options, against plain forward passes over one option at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA
from repro.models import ModelSpec
from repro.models.loading import load_model
from repro.training.options import Options, encode_options, option_log_likelihoods

# The models compute in float64, the logits come in fp32: 7 digits of a sum of some twenty nats.
NATS = 2e-5

QUESTIONS = [
    ("Question: who goes there?\nAnswer:", (" nobody", " a", " nay, answer me", " I")),
    ("Long live", (" the king", " he")),
    ("'tis now struck twelve; get thee to bed, Francisco. For this relief", (" much thanks", " no", " ")),
]


@pytest.fixture(scope="module")
def items(tokenizer: PreTrainedTokenizerBase) -> list[Options]:
    return [encode_options(tokenizer, context, continuations) for context, continuations in QUESTIONS]


def alone(model: nn.Module, context: tuple[int, ...], continuation: tuple[int, ...]) -> float:
    """log p(continuation | context) from the logits of one plain forward pass over the two together."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(continuation)), continuation].sum())


def test_option_likelihoods_are_those_of_plain_forward_passes(model: nn.Module, items: list[Options]) -> None:
    expected = [[alone(model, item.context, c) for c in item.continuations] for item in items]
    for batch in (items, items[::-1], items[1:2]):
        found = option_log_likelihoods(model, batch, pad_id=3)
        for item, values in zip(batch, found, strict=True):
            assert values == pytest.approx(expected[items.index(item)], abs=NATS)
    assert len({round(value, 2) for values in expected for value in values}) == 9  # no two options alike


def test_an_option_is_blind_to_the_others(base: nn.Module, items: list[Options]) -> None:
    item = items[0]
    first, *others = item.continuations
    one = option_log_likelihoods(base, [item], pad_id=3)[0][0]
    changed = Options(item.context, (first, *(tuple(90 - i for i in range(len(other))) for other in others)))
    behind = Options(item.context, (others[2], first))
    alone_in_its_row = Options(item.context, (first,))
    for other_item, place in ((changed, 0), (behind, 1), (alone_in_its_row, 0)):
        assert option_log_likelihoods(base, [other_item], pad_id=3)[0][place] == pytest.approx(one, abs=NATS)


@pytest.mark.parametrize(
    "method", [LoRA(rank=4), DualLoRA(magnitude_rank=4, init_std=0.2)], ids=lambda method: method.name
)
def test_bf16_under_autocast_is_near_full_precision(
    tiny: ModelSpec, items: list[Options], method: LoRA | DualLoRA
) -> None:
    """As on a GPU: base weights in bf16, adapters in fp32, attention scores and their mask in bf16."""
    targets, found = tiny.targets_for("commonsense"), {}
    for dtype in (torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        model = method.attach(load_model(tiny, "causal_lm", dtype), targets, "causal_lm").eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found[dtype] = option_log_likelihoods(model, items, pad_id=3)
    for exact, rounded in zip(found[torch.float64], found[torch.bfloat16], strict=True):
        assert rounded == pytest.approx(exact, rel=0.01)
    assert found[torch.float64] != found[torch.bfloat16]
