"""Examples and their loss, against transformers' own full forward passes, one text at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from repro.methods.lora import LoRA
from repro.training.causal_lm import IGNORED, Example, collate, encode_example, negative_log_likelihood
from repro.training.options import encode_options
from tests.tiny_models import byte_ids


def test_an_example_is_start_prompt_completion_end(tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode_example(tokenizer, "who", "me", append_eos=True, max_tokens=7)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert list(example.ids) == [start, *byte_ids(tokenizer, "who"), *byte_ids(tokenizer, "me"), end]
    assert example.prompt_length == 4
    without = encode_example(tokenizer, "who", "me", append_eos=False, max_tokens=7)
    assert without.ids == example.ids[:-1]


def test_too_long_a_text_loses_the_beginning_of_its_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode_example(tokenizer, "abcdef", "xy", append_eos=True, max_tokens=6)
    assert list(example.ids) == [*byte_ids(tokenizer, "defxy"), tokenizer.eos_token_id]
    assert example.prompt_length == 3
    assert example.dropped == 4  # of ten tokens with start and end


def test_a_text_keeps_its_start_its_head_and_its_completion(tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode_example(
        tokenizer, "abcdef", "xy", append_eos=True, max_tokens=9, truncation="context", head="ab"
    )
    kept = [tokenizer.bos_token_id, *byte_ids(tokenizer, "abdefxy"), tokenizer.eos_token_id]
    assert list(example.ids) == kept
    assert (example.prompt_length, example.dropped) == (6, 1)


def test_a_batch_of_texts_without_a_completion_has_no_target(tokenizer: PreTrainedTokenizerBase) -> None:
    """LLM-Adapters' cut leaves them in the training."""
    example = encode_example(
        tokenizer, "abcdef", "xy", append_eos=True, max_tokens=5, truncation="right", head="ab"
    )
    assert list(example.ids) == [tokenizer.bos_token_id, *byte_ids(tokenizer, "abcd")]
    assert example.labels("completion") == [IGNORED] * 5
    assert example.labels("all") == list(example.ids)


def test_a_completion_without_room_for_a_prompt_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    """The boundary counts the end token; one token of prompt is enough to predict from."""
    assert encode_example(tokenizer, "ab", "wxyz", append_eos=True, max_tokens=6).prompt_length == 1
    with pytest.raises(ValueError, match=r"completion of 5 tokens .* max_tokens 5; raise .*wx") as error:
        encode_example(tokenizer, "ab", "wxyz", append_eos=True, max_tokens=5)
    assert "\n" not in str(error.value)


def test_evaluation_cuts_prompt_and_completion_where_training_does(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    options = encode_options(tokenizer, "who", [" me", " you"])
    for text, continuation in zip((" me", " you"), options.continuations, strict=True):
        example = encode_example(tokenizer, "who", text, append_eos=False, max_tokens=20)
        assert example.ids == options.context + continuation
        assert example.prompt_length == len(options.context)


def test_a_row_of_one_example_is_padded_on_the_right_and_predicts_no_padding() -> None:
    examples = [Example((5, 6, 7, 8), 3), Example((9, 10), 1)]
    batch = collate(examples, loss_on="completion", pad_id=0, row_tokens=5)
    assert batch.keys() == {"input_ids", "labels"}  # a causal mask is all that it needs
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, IGNORED, 8], [IGNORED, 10, IGNORED, IGNORED]]
    whole = collate(examples, loss_on="all", pad_id=0, row_tokens=5)
    assert whole["labels"].tolist() == [[IGNORED, 6, 7, 8], [IGNORED, 10, IGNORED, IGNORED]]


def test_examples_that_share_a_row_neither_see_nor_predict_each_other() -> None:
    examples = [Example((9, 10), 1), Example((5, 6, 7), 2), Example((1, 2, 3, 4, 8), 1)]
    batch = collate(examples, loss_on="all", pad_id=0, row_tokens=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 8], [5, 6, 7, 9, 10]]  # and not one row with padding
    assert batch["labels"].tolist() == [[IGNORED, 2, 3, 4, 8], [IGNORED, 6, 7, IGNORED, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert batch["visible"][1].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


# --- loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_tokens", [1, 10_000])  # rows of the longest text, one row
@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_the_loss_is_that_of_transformers_text_by_text(
    model: nn.Module, examples: list[Example], loss_on: str, row_tokens: int
) -> None:
    """transformers sees each text alone, without padding; its loss is the mean over the predicted tokens."""
    few = examples[::7]
    expected = 0.0
    for example in few:
        ids = torch.tensor([example.ids])
        labels = ids.clone()
        if loss_on == "completion":
            labels[:, : example.prompt_length] = IGNORED
        with torch.no_grad():
            expected += float(model(input_ids=ids, labels=labels).loss) * int(
                (labels[:, 1:] != IGNORED).sum()
            )
    batch = collate(few, loss_on=loss_on, pad_id=3, row_tokens=row_tokens)
    assert len(batch["input_ids"]) == (5 if row_tokens == 1 else 1)
    assert negative_log_likelihood(model, batch).item() == pytest.approx(expected, rel=1e-6)


def test_the_loss_does_not_depend_on_what_pads(base: nn.Module, examples: list[Example]) -> None:
    losses = [
        negative_log_likelihood(base, collate(examples[:9], loss_on="all", pad_id=pad)).item()
        for pad in (3, 77)
    ]
    assert losses[0] == losses[1]


def test_the_gradient_of_the_loss_is_that_of_transformers(
    attach: Callable[..., nn.Module], examples: list[Example]
) -> None:
    model = attach(LoRA(rank=4))
    batch = collate(examples[3:5], loss_on="all", pad_id=3, row_tokens=1)
    targets = int((batch["labels"][:, 1:] != IGNORED).sum())

    def gradients(loss: Tensor) -> Tensor:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trained)])

    ours = gradients(negative_log_likelihood(model, batch))
    mask = (batch["input_ids"] != 3).long()
    theirs = gradients(model(**batch, attention_mask=mask).loss * targets)
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
