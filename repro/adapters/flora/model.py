"""The tuner that places FLoRA's adapters in a model."""

from __future__ import annotations

from repro.adapters.additive import AdditiveModel
from repro.adapters.flora.layer import FloraLayer


class FloraModel(AdditiveModel):
    """A model with FLoRA in its linear layers. `get_peft_model` makes it from a `FloraConfig`."""

    prefix = "flora_"
    tuner_layer_cls = FloraLayer
