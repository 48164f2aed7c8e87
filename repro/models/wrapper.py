"""What peft puts around a model, and the model inside."""

from __future__ import annotations

from typing import Any


def without_wrapper(model: Any) -> Any:
    """The transformer itself, adapters and all, whether peft has wrapped it or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
