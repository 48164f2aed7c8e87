"""The checkpoint under an adapter: its configuration, and its tensors one at a time."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from repro.config import ConfigError
from repro.models.saved import read_mapping
from repro.reading import excerpt

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}

# What is loaded of a hub's repository: no code, and no pickle.
_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


class Stored(NamedTuple):
    """A tensor of the checkpoint: its file, its name there, and its size in bytes."""

    file: Path
    name: str
    bytes: int


class Base:
    """A checkpoint in safetensors, in one file or in shards.

    Attributes:
        folder: where its files are.
        config: transformers' configuration.
        stored: the tensors by their names in the file, in the order of the files.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Raises ConfigError: it is not there, or holds no weights that can be read as they are."""
        self.folder = _folder(name, revision)
        try:
            self.config: Any = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # of many unrelated classes, for a damaged file too
            raise ConfigError(
                f"{self.folder}: transformers does not read its config.json ({excerpt(str(error))})"
            ) from error
        if getattr(self.config, "quantization_config", None) is not None:
            raise ConfigError(
                f"{self.folder}: its weights are quantised, so dW cannot be added to them; name the "
                "unquantised model by --base"
            )
        self._open: dict[Path, Any] = {}
        self.stored = {
            name: Stored(path, name, _bytes(self._file(path).get_slice(name)))
            for path in self._files()
            for name in self._names(path)
        }

    def meta_model(self, task: str | None, labels: int | None) -> PreTrainedModel:
        """The model on the meta device, for a task of peft's; without one, of the class that was saved.

        Raises:
            ConfigError: there is no such class.
        """
        if labels is not None:
            self.config.num_labels = labels
        name = _AUTO_CLASSES.get(task or "") or next(iter(self.config.architectures or []), None)
        found = getattr(transformers, str(name), None)
        try:
            with torch.device("meta"):
                if isinstance(found, type) and issubclass(found, PreTrainedModel):
                    return found._from_config(self.config, dtype=self.dtype)
                model: PreTrainedModel = found.from_config(self.config, dtype=self.dtype)  # type: ignore[union-attr]
                return model
        except Exception as error:  # transformers checks few types of a configuration
            raise ConfigError(
                f"{self.folder}: transformers cannot build {excerpt(str(name))} from its config.json "
                f"({excerpt(str(error))})"
            ) from error

    @property
    def dtype(self) -> torch.dtype:
        """The checkpoint's floating-point type."""
        found = self.config.dtype
        return found if isinstance(found, torch.dtype) else torch.float32

    def tensor(self, name: str) -> Tensor:
        """A tensor, as it is stored."""
        tensor: Tensor = self._file(self.stored[name].file).get_tensor(name)
        return tensor

    def _files(self) -> list[Path]:
        whole, index = self.folder / "model.safetensors", self.folder / "model.safetensors.index.json"
        if whole.is_file():
            return [whole]
        if not index.is_file():
            raise ConfigError(
                f"{self.folder}: no model.safetensors and no index of shards; a pickle is not read, so "
                "save the model again with transformers"
            )
        shards = read_mapping(index).get("weight_map")
        if not isinstance(shards, dict):
            raise ConfigError(f"{index}: has no weight_map")
        found = sorted({str(shard) for shard in shards.values()})
        for shard in found:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", shard):
                raise ConfigError(
                    f"{index}: {excerpt(repr(shard))} is no name of a safetensors file beside it"
                )
        return [self.folder / shard for shard in found]

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"{path}: cannot be read ({excerpt(str(error))})") from error
        return self._open[path]

    def _names(self, path: Path) -> list[str]:
        names: list[str] = self._file(path).offset_keys()
        return names


def _folder(name: str, revision: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except Exception as error:  # offline, gated, not a name: of many unrelated classes
        raise ConfigError(
            f"the base model {excerpt(repr(name))} is no folder here, and the hub does not give it "
            f"({excerpt(str(error))}); name a folder by --base"
        ) from error


def _bytes(stored: Any) -> int:
    """Bytes of a tensor, by safetensors' word for its dtype: F32, BF16, F8_E4M3."""
    digits = re.findall(r"[0-9]+", stored.get_dtype())
    return math.prod(stored.get_shape()) * int(digits[0] if digits else 8) // 8  # BOOL has a byte
