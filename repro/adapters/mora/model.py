"""The tuner that places MoRA's adapters in a model."""

from __future__ import annotations

from repro.adapters.additive import AdditiveModel
from repro.adapters.mora.layer import MoraLayer


class MoraModel(AdditiveModel):
    """A model with MoRA in its linear layers. `get_peft_model` makes it from a `MoraConfig`."""

    prefix = "mora_"
    tuner_layer_cls = MoraLayer
