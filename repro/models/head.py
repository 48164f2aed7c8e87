"""Tells the pretrained model from the head that a task adds.

The paper's counts leave out classification heads, and adapters must train them; both use this file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import nn


def head_modules(model: nn.Module) -> list[str]:
    """Names of the modules that a task adds to a pretrained model; a language model's head is not one."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and child is not output and any(True for _ in child.parameters())
    ]


def draw_head(model: nn.Module) -> None:
    """Initialise a classifier's head from torch's generator, as BERT and its descendants do.

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
    """The given parameters without those of the model's head."""
    head = {
        id(parameter) for name in head_modules(model) for parameter in model.get_submodule(name).parameters()
    }
    return [parameter for parameter in parameters if id(parameter) not in head]


def set_classifier_dropout(model: nn.Module, probability: float) -> None:
    """Set the dropout before the last layer of a classifier, adapted or not.

    In BERT and DeBERTa it is a module beside the head, in RoBERTa inside it. The pooler's dropout is another.
    """
    from torch import nn

    for name, child in without_wrapper(model).named_children():
        if name in ("dropout", "classifier"):
            for module in child.modules():
                if isinstance(module, nn.Dropout):
                    module.p = probability
