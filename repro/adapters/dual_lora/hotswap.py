"""Another adapter's numbers in the place of a loaded one's. peft's `hotswap_adapter` takes LoRA alone."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict, infer_device, load_peft_weights, set_peft_model_state_dict

from .layer import DualLoraLayer

# The fields that decide the function and are not in the shapes of the factors.
_SAME = (
    "peft_type",
    *("magnitude_activation", "direction", "sign_estimator", "clip"),
    *("alpha", "alpha_pattern", "warmup", "warmup_steps"),
)


def hotswap_adapter(
    model: PeftModel,
    model_name_or_path: str,
    adapter_name: str,
    torch_device: str | None = None,
    **kwargs: Any,
) -> None:
    """Copy a saved adapter into the tensors of a loaded one, so that a compiled model stays compiled.

    The arguments are those of `peft.utils.hotswap.hotswap_adapter`.

    Raises:
        ValueError: the adapters differ in their rule, scale, ranks or layers, or the loaded one is merged.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    config = PeftConfig.from_pretrained(model_name_or_path, **kwargs)
    # dW(0) is drawn again from its seed.
    fields = (*_SAME, "init_std") if getattr(config, "warmup", None) == "subtract_initial" else _SAME
    for field in fields:
        there, here = getattr(config, field, None), getattr(model.peft_config[adapter_name], field, None)
        if there != here:
            _refuse(model_name_or_path, adapter_name, f"{field} is {there!r} instead of {here!r}")
    for layer in model.modules():
        if isinstance(layer, DualLoraLayer) and adapter_name in layer.merged_adapters:
            _refuse(model_name_or_path, adapter_name, "the adapter is merged; unmerge it first")
    state = load_peft_weights(model_name_or_path, device=torch_device or infer_device(), **kwargs)
    new = {name: tuple(tensor.shape) for name, tensor in state.items()}
    old = {
        name: tuple(tensor.shape)
        for name, tensor in get_peft_model_state_dict(model, adapter_name=adapter_name).items()
    }
    for name in sorted(new | old):
        if new.get(name) != old.get(name):
            reason = f"{name} has shape {new.get(name)} instead of {old.get(name)}"
            _refuse(model_name_or_path, adapter_name, reason)
    set_peft_model_state_dict(model, state, adapter_name=adapter_name)


def _refuse(path: str, adapter_name: str, reason: str) -> None:
    raise ValueError(f"{path} cannot take the place of adapter {adapter_name!r}: {reason}.")
