"""Which modules of a model a tuner adapts, in the words of peft's LoRA."""

from __future__ import annotations

from dataclasses import dataclass

from .card import CardConfig


@dataclass
class TargetConfig(CardConfig):
    """The settings by which peft matches modules.

    Args:
        target_modules: names of the modules to adapt, by the end of their path, or a regular expression for
            the whole path.
        exclude_modules: modules to leave out, named in the same two ways.
        layers_to_transform: numbers of the layers to adapt; only where `target_modules` is a list.
        layers_pattern: name of the list of layers that those numbers count, such as `layers` or `h`; None
            finds the first list in a module's path.
        modules_to_save: other modules that are trained and saved, such as a classification head.
    """

    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform={self.layers_to_transform!r} is not possible, it must be None where "
                f"target_modules is a string (got {self.target_modules!r}); put the numbers into it."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} is not possible, it must be None unless "
                "layers_to_transform is given."
            )
