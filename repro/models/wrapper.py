"""Access to the model inside peft's wrapper."""

from __future__ import annotations

from typing import Any


def without_wrapper(model: Any) -> Any:
    """The transformer itself with its adapters, whether wrapped by peft or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
