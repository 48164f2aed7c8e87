"""GGUF checkpoints of packages: converted once, exactly, and never half."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from repro.models import ModelSpec, load_model_spec, packages
from repro.models.loading import load_model, load_tokenizer

# Smaller than the tiny model: one layer, and a tokenizer of the file's own.
ARCHITECTURE = {
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SHAPES = {
    "token_embd": (260, 32),
    "blk.0.attn_q": (32, 32),
    "blk.0.attn_k": (16, 32),
    "blk.0.attn_v": (16, 32),
    "blk.0.attn_output": (32, 32),
    "blk.0.ffn_gate": (64, 32),
    "blk.0.ffn_up": (64, 32),
    "blk.0.ffn_down": (32, 64),
    "blk.0.attn_norm": (32,),
    "blk.0.ffn_norm": (32,),
    "output_norm": (32,),
}


class Package:
    """An installed distribution with one GGUF file of quantized weights."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        self.version = version

    def locate_file(self, path: str) -> Path:
        return self.folder / path

    def write(self) -> dict[str, np.ndarray]:
        """Writes the file; returns its weights as they are stored, that is after quantization."""
        writer = gguf.GGUFWriter(self.folder / "tiny.gguf", "llama")
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_block_count(1)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(260)
        tokens = ["<unk>", "<s>", "</s>", "<pad>", *(chr(256 + i) for i in range(255)), "\u0100\u0101"]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([3] * 4 + [1] * 256)
        writer.add_token_merges(["\u0100 \u0101"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        random = np.random.default_rng(0)
        stored = {}
        for name, shape in SHAPES.items():
            values = random.normal(size=shape).astype(np.float32)
            kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            stored[name] = gguf.quants.dequantize(packed, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return stored


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(packages, "user_cache_path", lambda name: folder / name)
    return folder / "dual-lora-repro"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    package = Package(tmp_path, "1.0")
    monkeypatch.setattr(packages, "distribution", lambda name: package)
    return package


def spec() -> ModelSpec:
    changes = {"source": "package", "checkpoint": "tiny", "file": "tiny.gguf", "architecture": ARCHITECTURE}
    return ModelSpec.model_validate(load_model_spec("tiny-llama").model_dump() | changes)


def test_a_gguf_file_becomes_an_ordinary_model_of_the_same_numbers(package: Package, cache: Path) -> None:
    stored = package.write()
    model = load_model(spec(), "causal_lm")
    for name, path in {
        "token_embd": "model.embed_tokens",
        "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
        "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
        "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
        "output_norm": "model.norm",
    }.items():
        assert torch.equal(model.get_submodule(path).weight, torch.from_numpy(stored[name])), path
    assert not hasattr(model.config, "quantization_config")
    assert model.name_or_path == "tiny"
    tokenizer = load_tokenizer(spec())
    assert tokenizer.pad_token_id == 3
    assert tokenizer.convert_ids_to_tokens([1, 2]) == ["<s>", "</s>"]


def test_it_is_converted_once_for_each_version_of_the_package(
    package: Package, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package.folder / "tiny.gguf").touch()
    converted = []

    def convert(file: Path, folder: Path) -> None:
        converted.append(folder.name)
        folder.mkdir(parents=True)

    monkeypatch.setattr(packages, "_convert", convert)
    for version in ("1.0", "1.0", "2.0"):
        package.version = version
        assert packages.checkpoint_folder(spec()) == cache / f"tiny-{version}"
    assert converted == ["tiny-1.0", "tiny-2.0"]


def test_a_conversion_that_fails_leaves_nothing_behind(
    package: Package, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.write()

    def full_disk(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(packages.os, "rename", full_disk)
    with pytest.raises(OSError, match="no space left"):
        packages.checkpoint_folder(spec())
    assert list(cache.iterdir()) == []


def test_the_copy_of_a_faster_process_is_used(
    package: Package, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.write()
    target = cache / "tiny-1.0"
    target.mkdir(parents=True)
    (target / "theirs").touch()
    packages._convert(package.folder / "tiny.gguf", target)
    assert [path.name for path in cache.rglob("*")] == ["tiny-1.0", "theirs"]
