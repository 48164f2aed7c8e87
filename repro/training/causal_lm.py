"""What families on causal language models share: tokenised examples, batches of them, and the loss.

Logits are the widest tensor of such a model (SmolLM2: 49,152 columns, hidden states have 576), and only a few
positions of a row need them. So the decoder runs first, and the output matrix is applied to those positions
only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

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
        inputs["attention_mask"] = additive_mask(batch["visible"], activation_dtype(model))
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


def activation_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of attention scores: autocast's if it is on, otherwise the weights'."""
    device_type = next(model.parameters()).device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return without_wrapper(model).get_output_embeddings().weight.dtype


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The boolean mask `visible`, (rows, queries, keys), as an additive one, (rows, 1, queries, keys).

    0 where a query may attend and the dtype's minimum elsewhere. Minus infinity would give NaN for padding,
    which may see no key.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
