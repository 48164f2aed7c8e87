"""What families on causal language models share: tokenised examples, the loss, likelihoods, generation.

Logits are the widest tensor of such a model (SmolLM2: 49,152 columns, hidden states have 576), and only a few
positions of a row need them. So the decoder runs first, and the output matrix is applied to those positions
only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import FloatTensor, LongTensor, Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedTokenizerBase,
)

from repro.models.wrapper import without_wrapper
from repro.training.packing import ROW_TOKENS, pack, pack_regularly, up_to_multiple
from repro.training.truncation import Truncation, truncated

IGNORED = -100  # label of a position that is not predicted; torch's own ignore_index


@dataclass(frozen=True)
class Example:
    """One training text as token ids; the first `prompt_length` tokens are the prompt, `dropped` were cut."""

    ids: tuple[int, ...]
    prompt_length: int
    dropped: int = 0

    def labels(self, loss_on: str) -> list[int]:
        """Ids to predict, one per position; with loss on the completion, the prompt is `IGNORED`."""
        ignored = self.prompt_length if loss_on == "completion" else 0
        return [IGNORED] * ignored + list(self.ids[ignored:])


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    completion: str,
    *,
    append_eos: bool,
    max_tokens: int,
    truncation: Truncation = "left",
    head: str = "",
) -> Example:
    """Tokenise prompt and completion separately, so that evaluation has the same token boundary.

    Adds the tokenizer's own start token, if it has one.

    Args:
        truncation: what a text of more than `max_tokens` tokens loses.
        head: the prompt's beginning that stays when its context is cut.

    Raises:
        ValueError: the completion is to stay whole and leaves no token for its prompt.
    """
    prompt_ids = tokenizer(prompt).input_ids
    completion_ids = tokenizer(completion, add_special_tokens=False).input_ids
    if append_eos:
        completion_ids = [*completion_ids, tokenizer.eos_token_id]
    whole = len(prompt_ids) + len(completion_ids)
    if whole > max_tokens:
        head_ids = tokenizer(head).input_ids
        try:
            prompt_ids, completion_ids = truncated(
                prompt_ids, completion_ids, head_ids, max_tokens, truncation
            )
        except ValueError as error:
            raise ValueError(f"{error} (text: {completion[:60]!r})") from error
    ids = (*prompt_ids, *completion_ids)
    return Example(ids=ids, prompt_length=len(prompt_ids), dropped=whole - len(ids))


def collate(
    examples: Sequence[Example],
    *,
    loss_on: str,
    pad_id: int,
    row_tokens: int = ROW_TOKENS,
    regular: bool = False,
) -> dict[str, Tensor]:
    """`input_ids` and `labels`, both (rows, width); rows may hold several examples (see `packing`).

    Packing saves padding, and a layer that builds its weight in each pass, such as Dual LoRA's, builds it
    less often. Packed batches also have `position_ids`, (rows, width), counted from 0 in each example,
    `examples`, (rows, width), the index of a token's example or -1, and `visible`, (rows, width, width): a
    query sees the keys of its own example up to itself. Batches of one example a row need none of them:
    padding is on the right, causal attention never sees it, and attention keeps its fast path. Padding and
    the first token of each example, which nothing predicts, are labelled `IGNORED`.

    `regular` gives batches of few different shapes, always packed, at the price of padding. Instead of
    `labels` they have `sources` and `targets`, both (rows, n): positions whose next token is predicted, and
    these tokens; `IGNORED` where a row has fewer.
    """
    lengths = [len(example.ids) for example in examples]
    if regular:
        places, width = pack_regularly(lengths)
    else:
        places = pack(lengths, row_tokens)
        width = max(sum(lengths[index] for index in members) for members in places)
    rows = [[(index, examples[index]) for index in members] for members in places]
    input_ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORED)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    owner = torch.full((len(rows), width), -1)
    for row, members in enumerate(rows):
        start = 0
        for index, example in members:
            end = start + len(example.ids)
            input_ids[row, start:end] = torch.tensor(example.ids)
            labels[row, start:end] = torch.tensor(example.labels(loss_on))
            labels[row, start] = IGNORED
            positions[row, start:end] = torch.arange(end - start)
            owner[row, start:end] = index
            start = end
    batch = {"input_ids": input_ids}
    batch |= _predicted(labels) if regular else {"labels": labels}
    if not regular and len(rows) == len(examples):
        return batch
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    visible = causal & (owner[:, :, None] == owner[:, None, :])
    return batch | {"position_ids": positions, "visible": visible, "examples": owner}


def _predicted(labels: Tensor) -> dict[str, Tensor]:
    """`sources` and `targets` of `collate`, n being half of the width, or all of it."""
    width = labels.shape[1]
    wanted = labels[:, 1:] != IGNORED
    most = int(wanted.sum(dim=1).max())
    n = min(width - 1, up_to_multiple(max(1, most), width // 2))
    # A stable sort puts the predicting positions first, in their order.
    sources = wanted.int().argsort(dim=1, descending=True, stable=True)[:, :n]
    targets = labels[:, 1:].gather(1, sources)  # `IGNORED` beyond a row's own
    return {"sources": sources, "targets": targets}


def micro_batches(
    loss_on: str, pad_id: int, *, regular: bool = False
) -> Callable[[Sequence[Example]], tuple[dict[str, Tensor], int]]:
    """A function that collates examples into a micro-batch and counts its predicted tokens."""

    def micro_batch(examples: Sequence[Example]) -> tuple[dict[str, Tensor], int]:
        batch = collate(examples, loss_on=loss_on, pad_id=pad_id, regular=regular)
        targets = batch["targets"] if regular else batch["labels"][:, 1:]
        return batch, int((targets != IGNORED).sum())

    return micro_batch


def hidden_states(model: nn.Module, **inputs: Tensor) -> Tensor:
    """Last hidden states, (rows, positions, width), of a causal language model, adapted or not."""
    return without_wrapper(model).get_decoder()(**inputs, use_cache=False).last_hidden_state


def logits_at(model: nn.Module, hidden: Tensor, where: Tensor) -> Tensor:
    """Logits in fp32, (chosen, vocabulary), where the mask `where`, (rows, positions), is true."""
    return _logits(model, hidden[where])


def _logits(model: nn.Module, chosen: Tensor) -> Tensor:
    return without_wrapper(model).get_output_embeddings()(chosen).float()


def negative_log_likelihood(
    model: nn.Module, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0
) -> Tensor:
    """Sum of -log p in nats over all predicted tokens of a batch (see `collate`), a scalar.

    With label smoothing, the sum of the smoothed cross-entropy. A sum and not a mean: dividing by the tokens
    of the whole optimiser batch makes gradient accumulation exact.
    """
    inputs = {"input_ids": batch["input_ids"]}
    if "visible" in batch:
        inputs["position_ids"] = batch["position_ids"]
        inputs["attention_mask"] = _additive(batch["visible"], _activation_dtype(model))
    hidden = hidden_states(model, **inputs)
    if "sources" in batch:
        # The number of chosen positions does not depend on values, as in a mask's choice below.
        chosen = hidden.take_along_dim(batch["sources"][:, :, None], dim=1).flatten(0, 1)
        logits, targets = _logits(model, chosen), batch["targets"].flatten()
    else:
        targets = batch["labels"][:, 1:]
        predicted = targets != IGNORED
        logits, targets = logits_at(model, hidden[:, :-1], predicted), targets[predicted]
    return nn.functional.cross_entropy(
        logits, targets, reduction="sum", label_smoothing=label_smoothing, ignore_index=IGNORED
    )


@dataclass(frozen=True)
class Options:
    """A question and its possible continuations, as token ids."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.context) + sum(len(continuation) for continuation in self.continuations)


def encode_options(tokenizer: PreTrainedTokenizerBase, context: str, continuations: Sequence[str]) -> Options:
    """Tokenise a question like a prompt, and its continuations like completions, of `encode_example`."""
    encoded = (tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in continuations)
    return Options(context=tuple(tokenizer(context).input_ids), continuations=tuple(encoded))


@torch.inference_mode()
def option_log_likelihoods(model: nn.Module, items: Sequence[Options], *, pad_id: int) -> list[list[float]]:
    """log p(continuation | context) in nats, for every continuation of every item, in one pass.

    An item's context appears once, followed by all continuations. The mask lets a continuation see the
    context and itself only, and its position ids start at the context's end. So the context, which is most of
    the text, is computed once per item and not once per option. Items share rows, to save padding, but do not
    see each other.
    """
    device = next(model.parameters()).device
    lengths = [len(item) for item in items]
    # At least two rows, or the probes, with few short items, could not detect that rows affect each other.
    rows = pack(lengths, min(ROW_TOKENS, sum(lengths) // 2))
    width = max(sum(lengths[index] for index in members) for members in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    # `owner`: item at a position, -1 for padding. `part`: 0 in the context, i > 0 in the i-th continuation.
    owner = torch.full((len(rows), width), -1)
    part = torch.zeros((len(rows), width), dtype=torch.long)
    # A target is predicted at its source: the token before it, or the context's last for the first target.
    sources: list[list[int]] = [[] for _ in items]
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            item = items[index]
            context_end = start + len(item.context)
            owner[row, start : start + len(item)] = index
            for number, text in enumerate((item.context, *item.continuations)):
                end = start + len(text)
                input_ids[row, start:end] = torch.tensor(text)
                positions[row, start:end] = torch.arange(len(text)) + (len(item.context) if number else 0)
                part[row, start:end] = number
                if number:
                    left = (context_end - 1, *range(start, end - 1))
                    sources[index] += [row * width + position for position in left]
                start = end
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same_part = part[:, :, None] == part[:, None, :]
    from_context = (part == 0)[:, None, :]
    visible = causal & (owner[:, :, None] == owner[:, None, :]) & (same_part | from_context)

    hidden = hidden_states(
        model,
        input_ids=input_ids.to(device),
        position_ids=positions.to(device),
        attention_mask=_additive(visible, _activation_dtype(model)).to(device),
    )

    targets = [token for item in items for continuation in item.continuations for token in continuation]
    places = torch.tensor([place for item in sources for place in item], device=device)
    chosen = hidden.reshape(len(rows) * width, -1)[places]
    every = torch.ones(len(places), dtype=torch.bool, device=device)
    log_p = torch.log_softmax(logits_at(model, chosen, every), dim=-1)
    token_log_p = log_p.gather(1, torch.tensor(targets, device=device)[:, None])[:, 0].cpu()
    sums = (
        float(piece.sum()) for piece in token_log_p.split([len(c) for i in items for c in i.continuations])
    )
    return [[next(sums) for _ in item.continuations] for item in items]


@torch.inference_mode()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
) -> list[str]:
    """Continuations of the prompts (token ids) by beam search, in one left-padded, masked batch.

    Args:
        length_penalty: a beam's score is its log-likelihood / length^length_penalty; the length is
            that of the continuation with its end token.
        no_repeat_ngram: n-grams of this many tokens occur at most once in a continuation; 0 allows all.
    """
    last, mask, cache = _prompts_computed(model, prompts, beams=beams)
    causal = without_wrapper(model)
    # transformers fills every argument that a call leaves out from the checkpoint's own settings (a chat
    # model's temperature, a repetition penalty), and these are not part of the protocol.
    own_settings, causal.generation_config = causal.generation_config, GenerationConfig()
    try:
        output = causal.generate(
            input_ids=last,
            attention_mask=mask,
            past_key_values=cache,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            logits_processor=[NoRepeatedNGrams(no_repeat_ngram, 1)] if no_repeat_ngram else [],
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    finally:
        causal.generation_config = own_settings
    return tokenizer.batch_decode(output[:, 1:], skip_special_tokens=True)


def _prompts_computed(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, beams: int
) -> tuple[Tensor, Tensor, Cache]:
    """The state from which a beam search continues.

    The common prefix of all prompts (a template's beginning) is computed once for the batch, and the rest of
    a prompt once for all its beams. A row holds the prefix, padding, and the rest.

    Returns:
        Each prompt's last token, (prompts, 1); the attention mask, (prompts, tokens); and the keys and values
        before the last token, with one row for each beam.
    """
    device = next(model.parameters()).device
    common = _common_length([prompt[:-1] for prompt in prompts])
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        for part, start in ((prompt[:common], 0), (prompt[common:], width - len(prompt) + common)):
            input_ids[row, start : start + len(part)] = torch.tensor(part)
            mask[row, start : start + len(part)] = 1
    input_ids, mask = input_ids.to(device), mask.to(device)
    decoder = without_wrapper(model).get_decoder()
    cache = DynamicCache(config=decoder.config)
    if common:
        decoder(input_ids=input_ids[:1, :common], past_key_values=cache)
        cache.batch_repeat_interleave(len(prompts))
    if common < width - 1:
        decoder(
            input_ids=input_ids[:, common:-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, common:-1],
            past_key_values=cache,
        )
    cache.batch_repeat_interleave(beams)
    return input_ids[:, -1:], mask, cache


def _common_length(texts: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix, in tokens."""
    columns = zip(*texts, strict=False)  # ends with the shortest
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


class NoRepeatedNGrams(LogitsProcessor):
    """Bans tokens that would repeat an n-gram of the continuation.

    transformers' own option also bans the n-grams of the prompt. The LoRA paper's beam search
    (microsoft/LoRA) bans those of the continuation only: a sentence about a meaning representation must
    repeat parts of it.
    """

    def __init__(self, size: int, prompt_length: int) -> None:
        self._processor = NoRepeatNGramLogitsProcessor(size)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        return self._processor(input_ids[:, self._prompt_length :], scores)


def _activation_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of attention scores: autocast's if it is on, otherwise the weights'."""
    device_type = next(model.parameters()).device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return without_wrapper(model).get_output_embeddings().weight.dtype


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The boolean mask `visible`, (rows, queries, keys), as an additive one, (rows, 1, queries, keys).

    0 where a query may attend and the dtype's minimum elsewhere. Minus infinity would give NaN for padding,
    which may see no key.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
