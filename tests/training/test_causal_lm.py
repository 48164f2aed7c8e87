"""Loss, likelihoods and generation, against transformers' own full forward passes, one text at a time."""

from __future__ import annotations

import copy
import string
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA
from repro.models import ModelSpec
from repro.models.loading import load_model
from repro.training.causal_lm import IGNORED, Example, collate, encode_example, negative_log_likelihood
from repro.training.generation import generate
from repro.training.options import Options, encode_options, option_log_likelihoods

# The models compute in float64, the logits come in fp32: 7 digits of a sum of some twenty nats.
NATS = 2e-5

QUESTIONS = [
    ("Question: who goes there?\nAnswer:", (" nobody", " a", " nay, answer me", " I")),
    ("Long live", (" the king", " he")),
    ("'tis now struck twelve; get thee to bed, Francisco. For this relief", (" much thanks", " no", " ")),
]

METHODS = [None, LoRA(rank=4), DualLoRA(magnitude_rank=4, init_std=0.2)]


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.name if method else "plain")
def model(request: pytest.FixtureRequest, base: nn.Module, attach: Callable[..., nn.Module]) -> nn.Module:
    return base if request.param is None else attach(request.param)


@pytest.fixture(scope="module")
def items(tokenizer: PreTrainedTokenizerBase) -> list[Options]:
    return [encode_options(tokenizer, context, continuations) for context, continuations in QUESTIONS]


def alone(model: nn.Module, context: tuple[int, ...], continuation: tuple[int, ...]) -> float:
    """log p(continuation | context) from the logits of one plain forward pass over the two together."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(continuation)), continuation].sum())


# --- examples -----------------------------------------------------------------------------------------------


def byte_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(character) for character in text]


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


# --- likelihoods of options ---------------------------------------------------------------------------------


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


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
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


# --- generation ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    texts = ["a", "Good now, sit down, and tell me, he that knows", "to be or", "not"]
    return [tokenizer(text).input_ids for text in texts]


@pytest.fixture(scope="module")
def letters(base: nn.Module, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The base model, made to answer in ASCII letters, so that different answers are different texts."""
    model = copy.deepcopy(base)
    others = torch.ones(model.lm_head.out_features, dtype=torch.bool)
    others[byte_ids(tokenizer, string.ascii_letters)] = False
    model.lm_head.weight[others] = 0
    model.lm_head.weight[~others] *= 3
    return model


def test_greedy_generation_takes_the_likeliest_token_each_time(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    """Each prompt alone, a full forward pass a token: no cache, no padding, the model's own positions."""
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(letters(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(ids[len(prompt) :]))
    assert generate(letters, tokenizer, prompts, beams=1, max_new_tokens=6) == expected
    assert len(set(expected)) == 4
    assert all(len(text) == 6 for text in expected)


def test_generation_uses_the_adapters(
    letters: nn.Module, tiny: ModelSpec, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    plain = generate(letters, tokenizer, prompts, beams=1, max_new_tokens=6)
    torch.manual_seed(0)
    method = DualLoRA(magnitude_rank=4, init_std=0.3)
    model = method.attach(copy.deepcopy(letters), tiny.targets_for("commonsense"), "causal_lm").eval()
    adapted = generate(model, tokenizer, prompts, beams=1, max_new_tokens=6)
    assert adapted != plain
    assert adapted == generate(method.merge(model), tokenizer, prompts, beams=1, max_new_tokens=6)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_generates_what_each_prompt_does_alone(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], beams: int
) -> None:
    texts = generate(letters, tokenizer, prompts, beams=beams, max_new_tokens=8)
    assert texts == [generate(letters, tokenizer, [p], beams=beams, max_new_tokens=8)[0] for p in prompts]
    assert generate(letters, tokenizer, prompts[::-1], beams=beams, max_new_tokens=8) == texts[::-1]


def test_beams_are_honoured(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    """Against a search written out for two tokens: the best pair that starts with one of the k likeliest."""

    def best_pair(prompt: list[int], beams: int) -> str:
        with torch.no_grad():
            first = letters(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            starts = first.topk(beams).indices.tolist()
            second = (
                letters(input_ids=torch.tensor([[*prompt, s] for s in starts])).logits[:, -1].log_softmax(-1)
            )
        total = first[starts][:, None] + second
        row, token = divmod(int(total.argmax()), total.shape[1])
        return tokenizer.decode([starts[row], token])

    many = [[*prompts[3], token] for token in byte_ids(tokenizer, "abcdefghij")]
    found = {beams: generate(letters, tokenizer, many, beams=beams, max_new_tokens=2) for beams in (1, 3)}
    for beams, texts in found.items():
        assert texts == [best_pair(prompt, beams) for prompt in many]
    assert found[1] != found[3]


def test_generation_stops_at_the_end_token_row_by_row(
    letters: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    texts = generate(letters, tokenizer, prompts, beams=1, max_new_tokens=8)
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = texts[0][3]  # the letter that the first prompt's answer has there
    expected = [
        "".join(text.partition(ending.eos_token)[:2]) for text in texts
    ]  # a letter is shown, `</s>` would not be
    assert generate(letters, ending, prompts, beams=1, max_new_tokens=8) == expected
    assert {len(text) for text in expected} >= {4, 8}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
        {"repetition_penalty": 50.0},
        {"no_repeat_ngram_size": 1},
        {"length_penalty": -9.0, "early_stopping": True},
        {"num_beams": 2, "min_new_tokens": 7, "max_length": 3},
        {"suppress_tokens": [81, 82, 83, 84, 85, 86, 87]},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_the_checkpoints_own_generation_settings_change_nothing(
    letters: nn.Module,
    tiny: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    setting: dict[str, float],
    wrapped: bool,
) -> None:
    model = copy.deepcopy(letters)
    if wrapped:
        model = LoRA(rank=2).attach(model, tiny.targets_for("commonsense"), "causal_lm").eval()
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = "e"
    expected = generate(model, ending, prompts, beams=4, max_new_tokens=8)
    for holder in (model, model.get_base_model() if wrapped else model):
        for name, value in setting.items():
            setattr(holder.generation_config, name, value)
    assert generate(model, ending, prompts, beams=4, max_new_tokens=8) == expected
