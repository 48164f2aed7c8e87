"""The tuner that places Delta-LoRA's adapters in a model."""

from __future__ import annotations

from repro.adapters.additive import AdditiveModel
from repro.adapters.delta_lora.layer import DeltaLoraLayer


class DeltaLoraModel(AdditiveModel):
    """A model with Delta-LoRA in its linear layers. `get_peft_model` makes it from a `DeltaLoraConfig`."""

    prefix = "delta_lora_"
    tuner_layer_cls = DeltaLoraLayer
