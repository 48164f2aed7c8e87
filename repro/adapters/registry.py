"""Registers the adapters of this package with peft, so that its functions treat them like its own."""

from __future__ import annotations

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method


def register(
    name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner], prefix: str | None = None
) -> None:
    """Register a method under a lower-case `name`; its peft type is `PeftType(name.upper())`.

    The names of an adapted layer's parameters start with `prefix` (default: `name` and an underscore).

    Raises:
        ImportError: another copy of this code has registered it: this project's, or the package dual_lora.
        KeyError: the name or the prefix is taken.
    """
    value = name.upper()
    taken = next((known for name, known in PEFT_TYPE_TO_CONFIG_MAPPING.items() if name == value), None)
    if taken is not None and taken.__name__ == config_cls.__name__:
        raise ImportError(
            f"{taken.__module__} has registered {value} with peft in this process, so "
            f"{config_cls.__module__} cannot; import repro.adapters before dual_lora, or one of the two alone"
        )
    if value not in PeftType.__members__:
        # peft registers only members of its PeftType, and an Enum has no public way to add one. The
        # attribute comes first: an Enum refuses to set an attribute whose name is already in its maps.
        member = str.__new__(PeftType, value)
        member._name_ = value
        member._value_ = value
        setattr(PeftType, value, member)
        PeftType._member_names_.append(value)
        PeftType._member_map_[value] = member
        PeftType._value2member_map_[value] = member
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=prefix)
