"""Likelihoods of the options of a question: items of multiple choice, scored without generating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.training.causal_lm import activation_dtype, additive_mask, hidden_states, logits_at
from repro.training.packing import ROW_TOKENS, pack


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
        attention_mask=additive_mask(visible, activation_dtype(model)).to(device),
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
