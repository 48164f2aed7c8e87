"""Adds an adapter's dW to its base model's weights, and writes an ordinary checkpoint."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from repro.config import ConfigError
from repro.files import follow_umask, storage_fault
from repro.merging.adapter import Adapter
from repro.merging.base import Base

# Bytes of weights in a shard, and in memory.
SHARD = 5 * 10**9

# A tokenizer's files, and what else transformers keeps beside a model's weights. Never code.
_BESIDE = (
    "tokenizer", "special_tokens_map.json", "added_tokens.json", "vocab", "merges.txt", "spiece.model",
    "sentencepiece", "spm.model", "chat_template", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
_ENDINGS = (".json", ".txt", ".model", ".jinja")


class Merged(NamedTuple):
    """What was written.

    Attributes:
        layers: layers whose weight has dW in it.
        replaced: tensors that the adapter trained whole, such as a head or biases.
        shards: files of weights.
        bytes: of all weights.
        left_out: tensors of the base's files that the model does not have.
    """

    layers: int
    replaced: int
    shards: int
    bytes: int
    left_out: int


def merge(adapter_folder: Path, out: Path, base_name: str | None = None) -> Merged:
    """Write the base model with the adapter's dW in its weights to a new folder.

    Each tensor keeps the dtype that it has in the base. W0 + dW is the tuner's own, rounded once.

    Args:
        adapter_folder: what `save_pretrained` of a PeftModel wrote.
        out: the folder to write; it appears when it is complete.
        base_name: folder or hub name of the base model, by default the one that the adapter names.

    Raises:
        ConfigError: `out` exists, or the adapter or its base cannot be read or merged.
        OSError: the disk is full or not writable.
    """
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists; name a folder that does not, nothing is overwritten")
    adapter = Adapter(adapter_folder)
    named, revision = (base_name, None) if base_name is not None else adapter.base
    if not isinstance(named, str) or not named:
        raise ConfigError(f"{adapter_folder} names no base model; name its folder by --base")
    base = Base(named, revision)
    model = base.meta_model(adapter.config.task_type, adapter.labels())
    source, left_out = _sources(base, model)
    needed = {name for name, _ in model.named_parameters()}
    tied = _tied(model)
    adapter.attach(model)
    _check_ties(adapter, tied)
    for name in sorted(needed - source.keys() - adapter.trained.keys() - tied.keys()):
        raise ConfigError(
            f"{base.folder}: its files lack {name} (transformers may build it from others as it loads them); "
            "merge in memory, by merge_and_unload"
        )
    pending = out.parent / f".{out.name}.{secrets.token_hex(8)}.partial"
    try:
        pending.mkdir(parents=True)
        shards, written = _write_weights(pending, base, adapter, source)
        base.config.architectures = [type(model).__name__]
        base.config.save_pretrained(pending)
        _copy_beside(pending, base, adapter)
        follow_umask(pending)
        os.rename(pending, out)
    finally:
        shutil.rmtree(pending, ignore_errors=True)
    return Merged(len(adapter.layers), len(adapter.trained), shards, written, left_out)


def _sources(base: Base, model: PreTrainedModel) -> tuple[dict[str, str], int]:
    """Names in the files by names in the model, and how many tensors of the files it does not have.

    A checkpoint of a body (`h.0...`) loads into a model with a head (`transformer.h.0...`) and the reverse.
    """
    names, prefix = model.state_dict().keys(), f"{model.base_model_prefix}."
    found = {}
    for stored in base.stored:
        for name in (stored, prefix + stored, stored.removeprefix(prefix)):
            if name in names:
                found[name] = stored
                break
    return found, len(base.stored) - len(found)


def _tied(model: PreTrainedModel) -> dict[str, str]:
    """Names of tied parameters, each with the one that it shares its values with."""
    tied: dict[str, str] = dict(model.all_tied_weights_keys or {})
    return tied


def _check_ties(adapter: Adapter, tied: dict[str, str]) -> None:
    changed = {f"{path}.weight" for path in adapter.layers} | adapter.trained.keys()
    for one, other in tied.items():
        if {one, other} & changed:
            raise ConfigError(
                f"the adapter changes {one} or {other}, and the base model ties the two: a merged checkpoint "
                "would change both. Untie them before training"
            )


def _write_weights(folder: Path, base: Base, adapter: Adapter, source: dict[str, str]) -> tuple[int, int]:
    """Write the shards and their index; their number, and the bytes of all weights."""
    layers = {f"{path}.weight": path for path in adapter.layers}
    new = [name for name in adapter.trained if name not in source]

    def tensor(name: str) -> Tensor:
        if name in adapter.trained:
            trained = adapter.tensor(adapter.trained[name])
            return trained.to(base.tensor(source[name]).dtype if name in source else base.dtype)
        weight = base.tensor(source[name])
        return adapter.merged(layers[name], weight) if name in layers else weight

    sizes = {name: base.stored[stored].bytes for name, stored in source.items()}
    for name in new:
        sizes[name] = adapter.tensor(adapter.trained[name]).numel() * base.dtype.itemsize
    parts = list(_parts(sizes, SHARD))
    place: dict[str, str] = {}
    total = 0
    for number, names in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors" if len(parts) > 1 else "model.safetensors"
        tensors = {name: tensor(name).contiguous() for name in names}
        total += sum(one.nbytes for one in tensors.values())
        place |= dict.fromkeys(names, file)
        _save(tensors, folder / file)
        del tensors  # before the next shard is read
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))}
        (folder / "model.safetensors.index.json").write_text(f"{json.dumps(index, indent=2)}\n")
    return len(parts), total


def _parts(sizes: dict[str, int], most: int) -> Iterator[Sequence[str]]:
    """The names in their order, in parts of at most `most` bytes, or of one tensor that is larger."""
    part: list[str] = []
    for name, size in sizes.items():
        if part and sum(sizes[one] for one in part) + size > most:
            yield part
            part = []
        part.append(name)
    yield part


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise OSError(fault, os.strerror(fault), str(path)) from error


def _copy_beside(folder: Path, base: Base, adapter: Adapter) -> None:
    """Copy the tokenizer and the generation's settings; the adapter's own tokenizer if it has one."""
    own, of_base = adapter.files(), {path.name: path for path in base.folder.iterdir() if path.is_file()}
    tokenizer = own if "tokenizer_config.json" in own else of_base
    copied = {
        name: path for name, path in tokenizer.items() if name.startswith(_BESIDE) and name.endswith(_ENDINGS)
    }
    if "generation_config.json" in of_base:
        copied["generation_config.json"] = of_base["generation_config.json"]
    for name, path in copied.items():
        shutil.copyfile(path, folder / name)
