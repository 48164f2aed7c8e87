"""Makes the adapters of this package known to peft, so that its functions treat them like its own methods."""

from __future__ import annotations

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method


def register(
    name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner], prefix: str | None = None
) -> None:
    """Register a method under a lower-case `name`; its peft type is `PeftType(name.upper())`.

    `prefix` starts the names of everything that a layer of the method owns (default: `name` and an underscore).
    Raises what peft raises for a name or a prefix that is taken.
    """
    value = name.upper()
    if value not in PeftType.__members__:
        # peft registers only names that are members of its PeftType, and an Enum offers no public way to add one.
        # The member is set before it enters the maps because an Enum refuses to reassign the names in them.
        member = str.__new__(PeftType, value)
        member._name_ = value
        member._value_ = value
        setattr(PeftType, value, member)
        PeftType._member_names_.append(value)
        PeftType._member_map_[value] = member
        PeftType._value2member_map_[value] = member
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=prefix)
