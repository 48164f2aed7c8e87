"""A model's description: one YAML file for each model in `experiments/models/`.

A run names its model by one word. Its file, checked when it is read, gives the checkpoint, the architecture
(so that shapes and counts are known before any download), the padding, and the modules that each benchmark
family adapts.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from repro.config import ConfigError, Frozen, Line, Name, Seed, added, load_named, names_in
from repro.models.architecture import check_values
from repro.models.shapes import block_shapes
from repro.paths import EXPERIMENTS

_CAUSAL = ("llama", "gpt2")

# 256 bytes and four special tokens; see `repro.models.loading.byte_tokenizer`.
_BYTES = 260

# A description may come from a result file of somebody else: no checkpoint is a path to a folder.
_CHECKPOINTS = {
    "hub": r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)?[A-Za-z0-9_-][A-Za-z0-9._-]*",
    "package": r"[A-Za-z0-9][A-Za-z0-9._-]*",
    "random": "",
}


class Padding(Frozen):
    """How a batch is made rectangular.

    Attributes:
        token: a special token of the vocabulary, which no text is encoded to.
        side: `left` for a causal model, whose next token must follow the text and not the padding.
    """

    token: Line = Field(min_length=1)
    side: Literal["left", "right"]


class ModelSpec(Frozen):
    """A model's description.

    Attributes:
        name: the model's name, equal to the file's.
        source: `hub` (Hugging Face), `package` (files inside an installed Python package), or `random` (no
            checkpoint: weights drawn under `seed`, for tests of the whole path).
        checkpoint: hub id, or name of the distribution, or empty.
        file: path inside the package: a `.gguf` file, or a folder in the layout of a hub checkpoint.
        revision: commit of the hub checkpoint.
        gated: whether the hub requires its licence to be accepted first.
        architecture: fields of the transformers configuration, with `model_type`; all shapes follow from
            them.
        padding: how batches are padded; checked when the tokenizer is loaded.
        targets: for each benchmark family, the modules to adapt.
        quantization: `nf4` keeps the linear maps' weights in four bits (bitsandbytes) and computes with them
            in the precision of training. In effect this is another model, so it is part of a run's hash.
        seed: for random weights. They replace a checkpoint, so they are the same in every run.
    """

    name: Name
    source: Literal["hub", "package", "random"]
    checkpoint: str = ""
    file: str = ""
    revision: Name | None = None
    gated: bool = False
    architecture: dict[str, Any]
    padding: Padding
    targets: dict[Name, Annotated[tuple[Line, ...], Field(min_length=1)]] = Field(min_length=1)
    quantization: Literal["nf4"] | None = added(None)
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        if (self.source == "random") != (self.checkpoint == ""):
            raise ValueError(f"checkpoint is {self.checkpoint!r}, but the source is {self.source!r}")
        if not re.fullmatch(_CHECKPOINTS[self.source], self.checkpoint):
            raise ValueError(f"checkpoint {self.checkpoint!r} is no id of the source {self.source!r}")
        place = PurePosixPath(self.file)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"file {self.file!r} is outside of the package; name a path inside of it")
        if self.causal and self.padding.side != "left":
            raise ValueError(f"padding.side is {self.padding.side!r}, but a causal model pads on the left")
        check_values(self.architecture)
        for modules in self.targets.values():
            block_shapes(self.architecture, modules)
        if self.source == "random" and self.architecture["vocab_size"] < _BYTES:
            raise ValueError(
                f"architecture.vocab_size: below the {_BYTES} tokens of a model without checkpoint"
            )
        return self

    @property
    def causal(self) -> bool:
        """Whether it is a causal language model; otherwise it is an encoder."""
        return self.architecture.get("model_type") in _CAUSAL

    @property
    def drops_out(self) -> bool:
        """Whether the model itself has dropout in training: all architectures but LLaMA, at 0.1."""
        return self.architecture.get("model_type") != "llama"

    def for_family(self, family: str) -> ModelSpec:
        """This model with the targets of one family only: other families' targets are not part of a run.

        Raises:
            ConfigError: the model's file names none for this family.
        """
        return self.model_copy(update={"targets": {family: self.targets_for(family)}})

    def targets_for(self, family: str) -> tuple[str, ...]:
        """The modules that a benchmark family adapts in this model.

        Raises:
            ConfigError: the model's file names none for this family.
        """
        if family not in self.targets:
            raise ConfigError(
                f"model {self.name} names no modules to adapt for the benchmark family {family!r} (it does "
                f"for: {', '.join(sorted(self.targets))}); add targets.{family} to its file"
            )
        return self.targets[family]


def list_models(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all described models."""
    return names_in(experiments / "models")


@cache  # a plan of ten thousand rows asks ten thousand times
def load_model_spec(name: str, experiments: Path = EXPERIMENTS) -> ModelSpec:
    """Read a model's description.

    Raises:
        ConfigError: there is no such model, or its file is wrong.
    """
    return load_named("model", name, experiments / "models", ModelSpec)
