"""Continuations of prompts by beam search."""

from __future__ import annotations

from collections.abc import Sequence
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
