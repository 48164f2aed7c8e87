"""Masks of dropout that are a function of seed, step and example, and what trains with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from repro.methods.lora import LoRA
from repro.methods.prefix import Prefix
from repro.models.gradient_checkpointing import checkpoint_blocks
from repro.training.causal_lm import IGNORED, Example, collate, negative_log_likelihood
from repro.training.dropout import ExampleDropout, checkpoint_contexts, has_dropout
from repro.training.out_of_memory import cut_rows


def dropped(
    examples: Tensor, *shape: int, positions: Tensor | None = None, seed: int = 0, p: float = 0.1
) -> Tensor:
    torch.manual_seed(seed)
    with ExampleDropout(examples, positions):
        return F.dropout(torch.ones(shape), p) == 0


# --- masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_masks_are_like_independent_draws(p: float) -> None:
    """Means over all, rows, tokens and features, and correlations of their pairs, have the right variance."""
    masks = dropped(torch.arange(32), 32, 64, 128, p=p).double()
    for kept in ((), (0,), (1,), (2,)):
        means = masks.mean([dim for dim in range(3) if dim not in kept])
        z = (means - p) / math.sqrt(p * (1 - p) * means.numel() / masks.numel())
        assert z.abs().max() < 4.5
        assert means.numel() == 1 or 0.5 < z.var() < 1.7
    for dim in range(3):
        pairs = masks.movedim(dim, 0).flatten(1)
        correlation = torch.corrcoef(pairs)[*torch.triu_indices(len(pairs), len(pairs), 1)]
        z = correlation * math.sqrt(pairs.shape[1])
        assert z.abs().max() < 6
        assert 0.9 < z.var() < 1.1


def test_kept_elements_are_scaled_and_gradients_follow() -> None:
    x = torch.randn(3, 5, 7, requires_grad=True)
    torch.manual_seed(0)
    with ExampleDropout(torch.arange(3)):
        y = F.dropout(x, 0.25)
    y.sum().backward()
    mask = dropped(torch.arange(3), 3, 5, 7, p=0.25)
    assert 0 < mask.sum() < mask.numel()
    torch.testing.assert_close(y, torch.where(mask, 0.0, x / 0.75))
    torch.testing.assert_close(x.grad, torch.where(mask, 0.0, torch.full_like(x, 1 / 0.75)))


def test_calls_and_seeds_draw_anew_and_the_same_seed_again() -> None:
    rows, shape = torch.arange(4), (4, 16, 32)
    torch.manual_seed(0)
    with ExampleDropout(rows):
        first, second = (F.dropout(torch.ones(shape), 0.5) == 0 for _ in range(2))
    assert (first == dropped(rows, *shape, p=0.5)).all()
    for other in (second, dropped(rows, *shape, p=0.5, seed=1)):
        assert 0.4 < (first == other).double().mean() < 0.6


@pytest.mark.parametrize("shape", [(8, 20, 32), (8, 4, 20, 20), (32, 20, 20)], ids=str)
def test_a_mask_does_not_depend_on_its_micro_batch(shape: tuple[int, ...]) -> None:
    """The third example alone, less padded: (rows, tokens, features), (rows, heads, queries, keys)."""
    whole = dropped(torch.arange(8), *shape)
    one = dropped(torch.tensor([2]), shape[0] // 8, *(15 if size == 20 else size for size in shape[1:]))
    share = shape[0] // 8
    expected = whole[2 * share : 3 * share, ..., :15] if len(shape) != 3 or share > 1 else whole[2:3]
    torch.testing.assert_close(
        one, expected[..., :15, :] if len(shape) == 4 or share > 1 else expected[:, :15]
    )


def test_examples_that_share_a_row_keep_their_masks() -> None:
    examples = torch.tensor([[3] * 5 + [4] * 7 + [-1] * 2])
    positions = torch.tensor([[*range(5), *range(7), 0, 0]])
    hidden = dropped(examples, 1, 14, 32, positions=positions)
    alone = dropped(torch.arange(8), 8, 20, 32)
    assert (hidden[0, :5] == alone[3, :5]).all()
    assert (hidden[0, 5:12] == alone[4, :7]).all()
    attention = dropped(examples, 1, 2, 14, 14, positions=positions)
    alone = dropped(torch.arange(8), 8, 2, 20, 20)
    assert (attention[0, :, :5, :5] == alone[3, :, :5, :5]).all()
    assert (attention[0, :, 5:12, 5:12] == alone[4, :, :7, :7]).all()


def test_what_has_no_examples_has_one_mask_for_all() -> None:
    """DeBERTa's embeddings of relative positions, (positions, features)."""
    assert (dropped(torch.arange(8), 64, 32) == dropped(torch.arange(6, 8), 64, 32)).all()


def test_dropout_without_a_rule_is_refused() -> None:
    with ExampleDropout(torch.arange(2)):
        with pytest.raises(NotImplementedError, match="dropout2d has no masks by example"):
            F.dropout2d(torch.ones(2, 3, 4, 4))
        with pytest.raises(NotImplementedError, match=r"shape \(2, 3, 4, 5, 6\) has no rule"):
            F.dropout(torch.ones(2, 3, 4, 5, 6))
    with (
        ExampleDropout(torch.tensor([[0, 1]]), torch.tensor([[0, 0]])),
        pytest.raises(
            NotImplementedError, match="over 3 tokens has no rule where rows of 2 tokens hold several"
        ),
    ):
        F.dropout(torch.ones(1, 3, 4))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_dense_formula_with_dropped_weights(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8)
    torch.manual_seed(0)
    with ExampleDropout(torch.arange(2)):
        given = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3, is_causal=causal)
    scores = (q.double() @ k.double().mT) / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    weights = scores.softmax(-1).masked_fill(dropped(torch.arange(2), 2, 4, 6, 6, p=0.3), 0) / 0.7
    torch.testing.assert_close(given.double(), weights @ v.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["bool", "additive", None])
def test_attention_without_dropout_is_torchs(mask: str | None) -> None:
    """Also with grouped queries, and next to it with a dropout so small that no weight is dropped."""
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    visible = torch.rand(2, 1, 6, 6) > 0.3
    visible[..., 0] = True
    given = {"bool": visible, "additive": torch.where(visible, 0.0, -1e4), None: None}[mask]
    expected = F.scaled_dot_product_attention(q, k, v, given, enable_gqa=True)
    with ExampleDropout(torch.arange(2)):
        for p in (0.0, 1e-8):
            ours = F.scaled_dot_product_attention(q, k, v, given, dropout_p=p, enable_gqa=True)
            torch.testing.assert_close(ours, expected)


# --- models -------------------------------------------------------------------------------------------------

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = SIZES | {"intermediate_size": 64, "num_labels": 2}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, attention_dropout=0.2)
    )


def adapted_llama() -> nn.Module:
    base = LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=64))
    model = LoRA(rank=2, dropout=0.3).attach(base, ("q_proj", "down_proj"), "causal_lm")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4))


def gpt2_with_a_prefix() -> nn.Module:
    return Prefix(virtual_tokens=3).attach(gpt2(), (), "causal_lm")


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**ENCODER))


def deberta() -> PreTrainedModel:
    sizes = ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    return DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, conv_kernel_size=3, conv_act="gelu"))


LENGTHS = (11, 9, 6, 5, 3, 2)


def losses(model: nn.Module, size: int, *, pack: bool = False, halvings: int = 0) -> tuple[float, Tensor]:
    """The loss of six examples in micro-batches of `size`, and its gradient in one vector."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(4, 300, (length,), generator=generator) for length in LENGTHS]
    total = torch.zeros(())
    for first in range(0, len(ids), size):
        members = ids[first : first + size]
        batch = {
            "input_ids": nn.utils.rnn.pad_sequence(members, batch_first=True),
            "labels": torch.tensor([len(member) % 2 for member in members]),
        }
        if "Sequence" in type(model).__name__:
            batch["attention_mask"] = (batch["input_ids"] > 0).long()
        elif pack:
            examples = [Example(tuple(member.tolist()), prompt_length=0) for member in members]
            batch = collate(examples, loss_on="all", pad_id=0, row_tokens=24)
        else:
            batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == 0, IGNORED)
        batch["examples"] = first + batch.get("examples", torch.arange(len(members)))
        assert (batch["examples"].ndim == 2) == (pack and size > 1)
        for piece in cut_rows(batch, halvings):
            torch.manual_seed(7)
            with ExampleDropout(piece.pop("examples"), piece.get("position_ids")):
                if "Sequence" in type(model).__name__:
                    loss = model(**piece).loss * len(piece["labels"])
                else:
                    loss = negative_log_likelihood(model, piece)
            loss.backward()
            total += loss.detach()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return float(total), gradient


@pytest.fixture(params=[llama, adapted_llama, gpt2, bert, deberta], ids=lambda build: build.__name__)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    build: Callable[[], nn.Module] = request.param
    return build().train()


def test_loss_and_gradient_do_not_depend_on_the_micro_batch(model: nn.Module) -> None:
    expected, gradient = losses(model, 6)
    without = losses(model.eval(), 6)[0]
    model.train()
    assert abs(without - expected) > 1e-5 * expected
    packs = "Sequence" not in type(model).__name__
    cases = [(1, False, 0), (4, False, 0), (6, False, 2), *([(6, True, 0), (6, True, 1)] if packs else [])]
    for size, pack, halvings in cases:
        loss, again = losses(model, size, pack=pack, halvings=halvings)
        assert loss == pytest.approx(expected, rel=1e-5), (size, pack, halvings)
        torch.testing.assert_close(again, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_a_prefix_changes_no_mask_of_packed_examples() -> None:
    torch.manual_seed(0)
    model = gpt2_with_a_prefix().train()
    expected, gradient = losses(model, 1)
    loss, again = losses(model, 6, pack=True)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(again, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_checkpointing_repeats_the_masks(model: nn.Module) -> None:
    expected, gradient = losses(model, 4)
    checkpoint_blocks(model, checkpoint_contexts)
    loss, again = losses(model, 4)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_models_say_whether_they_have_dropout(model: nn.Module) -> None:
    assert has_dropout(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.attention_dropout = 0.0
    assert not has_dropout(model)
