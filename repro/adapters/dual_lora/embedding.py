"""An embedding with Dual LoRA in its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layer import DualLoraLayer
from .replaced import call_with
from .terms import Update
from .update import dual_lora_weight


class Embedding(DualLoraLayer):
    """torch.nn.Embedding; its table (num_embeddings, embedding_dim) is (d, k): row i of B and D is token i's.

    Only the rows of the batch's tokens are built. The whole table is built where a row of dW needs more than
    that row of B and D (a `fixed` direction, `dorefa`), and for a class with a forward of its own. As in
    torch, the row of `padding_idx` gets no gradient.
    """

    def matrix_shape(self, layer: Any) -> tuple[int, int]:
        return layer.num_embeddings, layer.embedding_dim

    def forward_with(self, adapter_names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not adapter_names or not x.numel():
            return self.base_layer(x, *args, **kwargs)
        self.check_whole()
        updates = self.active_updates(adapter_names)
        table: Any = self.get_base_layer()
        factor = self._get_embed_scale()
        if (factor is None and type(table).forward is not nn.Embedding.forward) or not _by_rows(updates):
            weight = dual_lora_weight(self.weight, updates)
            output: Tensor = call_with(table, "weight", weight, (x, *args), kwargs)
            return output
        tokens, places = x.unique(return_inverse=True)
        rows = dual_lora_weight(self.weight[tokens], [_rows(update, tokens) for update in updates])
        if table.padding_idx is not None:
            rows = torch.where((tokens == table.padding_idx)[:, None], rows.detach(), rows)
        output = F.embedding(places, rows, scale_grad_by_freq=table.scale_grad_by_freq)
        return output if factor is None else output * factor.to(output.dtype)


def _by_rows(updates: Sequence[Update]) -> bool:
    return not any(u.rule.direction == "fixed" or u.rule.sign_estimator == "dorefa" for u in updates)


def _rows(update: Update, tokens: Tensor) -> Update:
    return update._replace(B=update.B[tokens], D=None if update.D is None else update.D[tokens])
