"""Dropout whose masks are a function of seed, step and example.

torch draws one mask for a whole micro-batch. Another micro-batch size, padded length or device gives another
mask, and a run's numbers would depend on how it is executed. Here each element of a mask is a hash of its
indices, so that they depend on it by rounding alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Odd 32-bit multipliers of the integer hash "lowbias32" (Wellons, Hash Prospector), as signed numbers.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
# 2^32 / golden ratio, so that neighbouring indices begin far apart.
_STRIDE = 0x9E3779B9 - 2**32
_WITHOUT_A_RULE = (F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


def has_dropout(model: nn.Module) -> bool:
    """Whether training the model draws dropout masks: by a module, or in its attention."""
    attention = getattr(getattr(model, "config", None), "attention_dropout", 0.0)
    modules = (module.p for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    return any(p > 0 for p in (attention, *modules))


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """`context_fn` of `torch.utils.checkpoint`: the contexts of a forward pass and of its repetition.

    torch's backward pass runs outside of all modes, so the repetition enters the forward pass's mode again.
    """
    return nullcontext(), ExampleDropout._active or nullcontext()


class ExampleDropout(TorchFunctionMode):
    """Within it, `dropout` and the dropout of `scaled_dot_product_attention` take masks by example.

    Each call takes a key from torch's generator of the CPU. So whoever seeds that generator by seed and step
    has the same keys in every micro-batch. Gradient checkpointing restores the generator before it repeats a
    forward pass, and `checkpoint_contexts` the mode, so that the pass has the same masks.
    """

    _active: ClassVar[ExampleDropout | None] = None

    def __init__(self, examples: Tensor, positions: Tensor | None = None) -> None:
        """Describe a micro-batch, whose rows are padded on the right.

        Args:
            examples: numbers within the optimiser batch: of each row's example, (rows,); or of each token's
                example where rows hold several of them, (rows, width).
            positions: (rows, width), each token's position within its example, where rows hold several.
        """
        super().__init__()
        self._packed = examples.ndim == 2
        self._examples = examples.int().view(len(examples), -1)
        self._positions = None if positions is None else positions.int()

    def __enter__(self) -> Self:
        ExampleDropout._active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        ExampleDropout._active = None
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func in _WITHOUT_A_RULE:
            raise NotImplementedError(
                f"{func.__name__} has no masks by example; use torch.nn.functional.dropout"
            )
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0 or input.numel() == 0:
            return input
        if p == 1:
            return input * 0.0
        return input.masked_fill(self._dropped(input, p), 0.0) * (1 / (1 - p))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """torch's formula of attention, written out: its fused kernels draw masks that nobody can choose."""
        if dropout_p == 0:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (tensor.repeat_interleave(groups, dim=-3) for tensor in (key, value))
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # The least number and not -inf, with which a padded row that sees nothing would become NaN.
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        return self._dropout(weights, dropout_p) @ value

    def _dropped(self, input: Tensor, p: float) -> Tensor:
        """Where the elements of `input` are dropped, a bool tensor of its shape.

        Its first dimension holds the rows, or rows times heads. Otherwise it has no examples, like DeBERTa's
        embeddings of relative positions, and all examples share its mask.
        """
        key = int(torch.randint(2**31, ()))
        bits = torch.full((), key, dtype=torch.int32, device=input.device)
        for index in self._indices(input):
            bits = _mixed(_folded(bits, 16) + _folded(_mixed(index * _STRIDE + 1), 16))
        return (bits < round(p * 2**32) - 2**31).view(input.shape)

    def _indices(self, input: Tensor) -> Iterator[Tensor]:
        """What tells the elements apart: tensors that together broadcast to the shape of `input`."""
        rows, shape = len(self._examples), list(input.shape)
        examples = self._examples
        if len(shape) == 3 and shape[0] > rows and shape[0] % rows == 0:
            shape = [rows, shape[0] // rows, *shape[1:]]
        elif shape[0] != rows:
            shape, examples = [1, *shape], torch.zeros_like(examples[:1, :1])
        plain = [torch.arange(size, dtype=torch.int32, device=input.device) for size in shape]
        if len(shape) == 2 and not self._packed:  # (examples, features)
            yield from (examples, plain[1])
        elif len(shape) == 3:  # (rows, tokens, features)
            yield from (examples[:, :, None], self._position(plain[1])[:, :, None], plain[2])
        elif len(shape) == 4:  # (rows, heads, queries, keys)
            queries, keys = (
                self._position(plain[2])[:, None, :, None],
                self._key_position(plain[3])[:, None, None],
            )
            yield from (examples[:, None, :, None], queries, plain[1].view(-1, 1, 1), keys)
        else:
            raise NotImplementedError(f"dropout on a tensor of the shape {tuple(input.shape)} has no rule")

    def _position(self, plain: Tensor) -> Tensor:
        """Positions within the examples, (rows or 1, tokens)."""
        if self._positions is None:
            return plain[None]
        if len(plain) != self._positions.shape[1]:
            raise NotImplementedError(
                f"dropout over {len(plain)} tokens has no rule where rows of "
                f"{self._positions.shape[1]} tokens hold several examples"
            )
        return self._positions

    def _key_position(self, plain: Tensor) -> Tensor:
        """The same for keys, before which there may be a prefix, as if each example had a row of its own."""
        prefix = 0 if self._positions is None else max(0, len(plain) - self._positions.shape[1])
        if not prefix:
            return self._position(plain)
        before = plain[:prefix].expand(len(self._examples), prefix)
        return torch.cat([before, prefix + self._position(plain[prefix:])], dim=1)


def _mixed(bits: Tensor) -> Tensor:
    """A hash of 32-bit integers, which wrap around. Its high bits depend on all bits, its low ones on few."""
    return _folded(bits * _FIRST, 15).mul_(_SECOND)


def _folded(bits: Tensor, shift: int) -> Tensor:
    """The high bits added (xor) to the low ones."""
    return ((bits >> shift) & (2 ** (32 - shift) - 1)) ^ bits  # int32 shifts in copies of the sign: masked
