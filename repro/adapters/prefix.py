"""Prefix tuning as part of the model itself.

peft adds the trained keys and values in the forward of its wrapper, so code that calls the wrapped model (its
decoder or `generate`) would run without the prefix. A hook on the decoder adds it for every caller.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache


class PrefixHook:
    """A forward pre-hook of a causal model's decoder, which puts the prefix into an empty key-value cache.

    A class, not a closure, so that a copy of the model gets its own hook.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model

    def __call__(
        self, decoder: nn.Module, arguments: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # GPT-2's model passes the tokens as a positional argument, LLaMA's as a keyword.
        given = (*arguments, inputs.get("input_ids"), inputs.get("inputs_embeds"))
        text = next(tensor for tensor in given if tensor is not None)
        rows, new = text.shape[:2]
        cache: Any = inputs.get("past_key_values")
        fresh = cache is None or cache.get_seq_length() == 0
        if fresh:
            prompt: Any = self.model.get_prompt(rows)
            cache = DynamicCache() if cache is None else cache
            for index, layer in enumerate(prompt.layers):
                cache.update(layer.keys, layer.values, index)
        length = self.model.active_peft_config.num_virtual_tokens
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        # peft's own forward has added the prefix and extended the mask, and passes no positions.
        extended = not fresh and mask is not None and mask.shape[-1] == cache.get_seq_length() + new
        if not extended:
            if mask is not None:
                mask = torch.cat([_visible(mask, length), mask], dim=-1)
            if positions is not None:
                positions = positions + length
        return arguments, {
            **inputs,
            "past_key_values": cache,
            "attention_mask": mask,
            "position_ids": positions,
        }


def install_prefix(model: PeftModel) -> PeftModel:
    """Add the prefix of a causal language model to every forward pass of its decoder; returns `model`."""
    decoder = model.get_base_model().get_decoder()  # type: ignore[operator]
    decoder.register_forward_pre_hook(PrefixHook(model), with_kwargs=True)
    return model


def _visible(mask: Tensor, length: int) -> Tensor:
    """`length` columns of the mask that every query can attend to."""
    shape = (*mask.shape[:-1], length)
    # A 4-dimensional float mask is added to the scores, so 0 is visible. All other masks have 1 or True.
    value = 0 if mask.dim() == 4 and mask.is_floating_point() else 1
    return torch.full(shape, value, dtype=mask.dtype, device=mask.device)
