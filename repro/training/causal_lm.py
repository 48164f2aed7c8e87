"""What families on causal language models share: tokenised examples, the loss, likelihoods, generation.

Logits are the widest tensor of such a model (SmolLM2: 49,152 columns against 576), and only a few positions
of a row are ever looked at. So the decoder runs first and the output matrix is applied to those positions
alone.
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
from repro.training.packing import ROW_TOKENS, pack

IGNORED = -100  # label of a position that is not predicted; torch's own ignore_index


@dataclass(frozen=True)
class Example:
    """One training text as token ids; the first `prompt_length` tokens are the prompt."""

    ids: tuple[int, ...]
    prompt_length: int

    def labels(self, loss_on: str) -> list[int]:
        """Ids to be predicted, position by position; under loss on the completion the prompt is `IGNORED`."""
        ignored = self.prompt_length if loss_on == "completion" else 0
        return [IGNORED] * ignored + list(self.ids[ignored:])


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str, *, append_eos: bool, max_tokens: int
) -> Example:
    """Tokenise a training text, prompt and completion apart, so that evaluation has the same boundary.

    Too long a text loses the beginning of its prompt: the completion is what is learnt. Adds the tokenizer's
    own start token, if it has one.

    Raises:
        ValueError: the completion alone is longer than `max_tokens`.
    """
    prompt_ids = tokenizer(prompt).input_ids
    completion_ids = tokenizer(completion, add_special_tokens=False).input_ids
    if append_eos:
        completion_ids = [*completion_ids, tokenizer.eos_token_id]
    room = max_tokens - len(completion_ids)
    if room < 1:
        raise ValueError(
            f"a completion of {len(completion_ids)} tokens leaves no room for its prompt under max_tokens "
            f"{max_tokens}; raise max_tokens (text: {completion[:60]!r})"
        )
    prompt_ids = prompt_ids[-room:]
    return Example(ids=(*prompt_ids, *completion_ids), prompt_length=len(prompt_ids))


def collate(
    examples: Sequence[Example], *, loss_on: str, pad_id: int, row_tokens: int = ROW_TOKENS
) -> dict[str, Tensor]:
    """`input_ids` and `labels`, both (rows, width), and what keeps examples of one row apart.

    Examples share rows of up to `row_tokens`, or of the longest one's length: that takes less padding, and
    a layer that builds its weight in each pass, as Dual LoRA's does, builds it less often. Then there are
    `position_ids`, (rows, width), which count each example from 0, and `visible`, (rows, width, width),
    which key a query sees: those of its own example up to itself. Where no row is shared neither is needed,
    since padding is on the right and nothing looks to its right, and attention keeps its fast path. Padded
    positions, and the first of each example, which nothing predicts, carry the label `IGNORED`.
    """
    places = pack([len(example.ids) for example in examples], row_tokens)
    rows = [[examples[index] for index in members] for members in places]
    shared = len(rows) < len(examples)
    width = max(sum(len(example.ids) for example in row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORED)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    owner = torch.full((len(rows), width), -1)
    for row, members in enumerate(rows):
        start = 0
        for index, example in enumerate(members):
            end = start + len(example.ids)
            input_ids[row, start:end] = torch.tensor(example.ids)
            labels[row, start:end] = torch.tensor(example.labels(loss_on))
            labels[row, start] = IGNORED
            positions[row, start:end] = torch.arange(end - start)
            owner[row, start:end] = index
            start = end
    batch = {"input_ids": input_ids, "labels": labels}
    if not shared:
        return batch
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    return batch | {"position_ids": positions, "visible": causal & (owner[:, :, None] == owner[:, None, :])}


def micro_batches(loss_on: str, pad_id: int) -> Callable[[Sequence[Example]], tuple[dict[str, Tensor], int]]:
    """What makes a micro-batch of examples, with its count of predicted tokens."""

    def micro_batch(examples: Sequence[Example]) -> tuple[dict[str, Tensor], int]:
        batch = collate(examples, loss_on=loss_on, pad_id=pad_id)
        return batch, int((batch["labels"][:, 1:] != IGNORED).sum())

    return micro_batch


def hidden_states(model: nn.Module, **inputs: Tensor) -> Tensor:
    """Last hidden states, (rows, positions, width), of a causal language model, adapted or not."""
    return without_wrapper(model).get_decoder()(**inputs, use_cache=False).last_hidden_state


def logits_at(model: nn.Module, hidden: Tensor, where: Tensor) -> Tensor:
    """Logits in fp32, (chosen, vocabulary), where the mask `where`, (rows, positions), is true."""
    return without_wrapper(model).get_output_embeddings()(hidden[where]).float()


def negative_log_likelihood(
    model: nn.Module, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0
) -> Tensor:
    """Sum over all predicted tokens of a batch (see `collate`) of -log p in nats, a scalar; smoothed, of its
    cross-entropy.

    The sum, not the mean: dividing by the whole optimiser batch's tokens makes gradient accumulation exact.
    """
    targets = batch["labels"][:, 1:]
    predicted = targets != IGNORED
    inputs = {"input_ids": batch["input_ids"]}
    if "visible" in batch:
        inputs["position_ids"] = batch["position_ids"]
        inputs["attention_mask"] = _additive(batch["visible"], _activation_dtype(model))
    hidden = hidden_states(model, **inputs)[:, :-1]
    logits = logits_at(model, hidden, predicted)
    return nn.functional.cross_entropy(
        logits, targets[predicted], reduction="sum", label_smoothing=label_smoothing
    )


@dataclass(frozen=True)
class Options:
    """One question and its possible continuations, as token ids."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.context) + sum(len(continuation) for continuation in self.continuations)


def encode_options(tokenizer: PreTrainedTokenizerBase, context: str, continuations: Sequence[str]) -> Options:
    """Tokenise a question as `encode_example` does a prompt, each continuation as it does a completion."""
    encoded = (tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in continuations)
    return Options(context=tuple(tokenizer(context).input_ids), continuations=tuple(encoded))


@torch.inference_mode()
def option_log_likelihoods(model: nn.Module, items: Sequence[Options], *, pad_id: int) -> list[list[float]]:
    """log p(continuation | context) in nats, for every continuation of every item, in one pass.

    An item's context stands in a row once, all its continuations behind it; the mask lets a continuation see
    the context and itself but no other, and its positions count on from the context's end. So the context,
    which is most of the text, is computed once an item and not once an option. Items share rows, which takes
    less padding; none sees another.
    """
    device = next(model.parameters()).device
    lengths = [len(item) for item in items]
    # In two rows at least, or the probes, of a few short items, would not see what rows do to each other.
    rows = pack(lengths, min(ROW_TOKENS, sum(lengths) // 2))
    width = max(sum(lengths[index] for index in members) for members in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    # Whose a position is, -1 for padding; and 0 in the context, i > 0 in the i-th continuation.
    owner = torch.full((len(rows), width), -1)
    part = torch.zeros((len(rows), width), dtype=torch.long)
    # A target is predicted from its source: its left neighbour, for a first token the context's end.
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

    A beam's score is its log-likelihood over the length of its continuation, end token included, to the power
    of `length_penalty`. No n-gram of `no_repeat_ngram` tokens, if that is positive, occurs twice in a
    continuation.
    """
    last, mask, cache = _prompts_computed(model, prompts, beams=beams)
    causal = without_wrapper(model)
    # The checkpoint's own settings (a chat model's temperature, a repetition penalty) are no part of a
    # protocol, and transformers falls back on them for all that a call leaves open.
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
    """What a beam search goes on from: each prompt's last token, (prompts, 1), the mask over all that a row
    holds, (prompts, tokens), and the keys and values before the last token, a row for each beam.

    What all the prompts begin with, a template's head, is computed once for the batch, the rest of a prompt
    once for all its beams. A row holds the common beginning, padding, and the rest.
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
    """How many tokens all the texts begin with alike."""
    columns = zip(*texts, strict=False)  # as long as the shortest
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


class NoRepeatedNGrams(LogitsProcessor):
    """Bans the tokens that would repeat an n-gram of the continuation.

    transformers' own option also bans those of the prompt. Upstream's beam search (microsoft/LoRA) looks at
    the continuation alone, and a sentence about a meaning representation has to repeat parts of it.
    """

    def __init__(self, size: int, prompt_length: int) -> None:
        self._processor = NoRepeatNGramLogitsProcessor(size)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        return self._processor(input_ids[:, self._prompt_length :], scores)


def _activation_dtype(model: nn.Module) -> torch.dtype:
    """The dtype in which attention scores are computed: the autocast one, or the weights'."""
    device_type = next(model.parameters()).device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return without_wrapper(model).get_output_embeddings().weight.dtype


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """`visible` (rows, queries, keys) as what is added to scores (rows, 1, queries, keys).

    0 where a query may look and the dtype's minimum elsewhere. Not minus infinity: a padding row sees only
    itself or nothing, and a softmax over nothing is NaN.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
