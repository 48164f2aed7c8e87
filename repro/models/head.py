"""Where a pretrained model ends and the task's head begins.

Counts of the paper leave classification heads out, adapters must train them, and both need the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import nn


def head_modules(model: nn.Module) -> list[str]:
    """Names of the parts that a task added to a pretrained model; a language model's head is none of them."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and child is not output and any(True for _ in child.parameters())
    ]


def draw_head(model: nn.Module) -> None:
    """Give a classifier's head a fresh start from torch's generator, as BERT and its descendants do.

    Weights are normal with the configuration's `initializer_range`, biases zero.
    """
    from torch import nn

    spread: float = model.config.initializer_range  # type: ignore[union-attr, assignment]
    for name in head_modules(model):
        for module in model.get_submodule(name).modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=spread)
                nn.init.zeros_(module.bias)


def without_head(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those of the parameters that are no part of the model's head."""
    head = {
        id(parameter) for name in head_modules(model) for parameter in model.get_submodule(name).parameters()
    }
    return [parameter for parameter in parameters if id(parameter) not in head]


def set_classifier_dropout(model: nn.Module, probability: float) -> None:
    """Set the dropout before the last layer of a classifier, adapted or not.

    It stands beside the head in BERT and DeBERTa, inside it in RoBERTa; a pooler's own is another one.
    """
    from torch import nn

    for name, child in without_wrapper(model).named_children():
        if name in ("dropout", "classifier"):
            for module in child.modules():
                if isinstance(module, nn.Dropout):
                    module.p = probability
