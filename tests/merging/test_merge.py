"""A merged checkpoint computes what peft's `merge_and_unload` computes in memory, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.delta_lora import DeltaLoraConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.flora import FloraConfig
from repro.adapters.mora import MoraConfig
from repro.cli import main
from repro.config import ConfigError
from repro.merging import merge as merging
from repro.merging.merge import merge
from repro.models.loading import byte_tokenizer

LLAMA = LlamaConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1,
)  # fmt: skip
TIED = LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True})
GPT2 = GPT2Config(
    vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
)
BERT = BertConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
)
TOKENS = torch.arange(12)[None]


def _saved_base(
    config: PretrainedConfig, folder: Path, dtype: torch.dtype, auto: Any = AutoModelForCausalLM, **how: Any
) -> None:
    torch.manual_seed(0)
    auto.from_config(config).to(dtype).save_pretrained(folder, **how)
    byte_tokenizer().save_pretrained(folder)


def _saved_adapter(config: PeftConfig, base: Path, folder: Path, auto: Any, **head: Any) -> None:
    """An adapter in which every trained number is drawn, as after training."""
    torch.manual_seed(1)
    model = get_peft_model(auto.from_pretrained(base, dtype="auto", **head), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(str(folder), save_embedding_layers=False)


def _agree(adapter: Path, base: Path, out: Path, auto: Any, **head: Any) -> None:
    """The checkpoint's outputs are those of merging in memory, and not the base's."""
    fresh = auto.from_pretrained(base, dtype="auto", **head)
    wanted = PeftModel.from_pretrained(fresh, str(adapter)).merge_and_unload().eval()
    found, report = auto.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert {p.dtype for p in found.parameters()} == {p.dtype for p in wanted.parameters()}
    for (name, one), (_, other) in zip(wanted.named_parameters(), found.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    with torch.no_grad():
        one, other = wanted(TOKENS), found.eval()(TOKENS)
        untouched = auto.from_pretrained(base, dtype="auto", **head).eval()(TOKENS)
    key = "logits" if "logits" in one else "last_hidden_state"
    assert torch.equal(one[key], other[key]) and not torch.equal(one[key], untouched[key])


CASES = {
    "dual lora, bf16": (LLAMA, torch.bfloat16, DualLoraConfig(target_modules=["q_proj", "down_proj"])),
    "tied embeddings": (TIED, torch.float32, DualLoraConfig(target_modules=["v_proj"])),
    "gpt2's conv1d": (GPT2, torch.float32, DualLoraConfig(target_modules=["c_attn", "c_proj"])),
    "conv1d, biases": (GPT2, torch.bfloat16, DualLoraConfig(target_modules=["c_fc"], bias="all")),
    "a pattern of ranks, some layers": (
        LLAMA,
        torch.float32,
        DualLoraConfig(
            target_modules=["q_proj", "up_proj"],
            layers_to_transform=[1],
            rank_pattern={"layers.1.mlp.up_proj": (3, 5)},
            alpha_pattern={"q_proj": 4.0},
            modules_to_save=["lm_head"],
            warmup="subtract_initial",
        ),
    ),
    "fixed direction": (LLAMA, torch.float16, DualLoraConfig(target_modules=["q_proj"], direction="fixed")),
    "delta-lora": (LLAMA, torch.float32, DeltaLoraConfig(target_modules=["q_proj"])),
    "mora": (LLAMA, torch.bfloat16, MoraConfig(target_modules=["q_proj"])),
    "flora": (GPT2, torch.float32, FloraConfig(target_modules=["c_attn"])),
    "peft's lora": (LLAMA, torch.bfloat16, LoraConfig(target_modules=["q_proj"], rank_pattern={"q_proj": 3})),
    "peft's dora": (LLAMA, torch.bfloat16, LoraConfig(target_modules=["q_proj"], use_dora=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_merging_in_memory(case: str, tmp_path: Path) -> None:
    model, dtype, config = CASES[case]
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    _saved_base(model, base, dtype)
    _saved_adapter(config, base, adapter, AutoModelForCausalLM)
    merge(adapter, out)
    _agree(adapter, base, out, AutoModelForCausalLM)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_shards_are_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    _saved_base(LLAMA, base, torch.bfloat16, max_shard_size="20KB")
    _saved_adapter(DualLoraConfig(target_modules="all-linear"), base, adapter, AutoModelForCausalLM)
    assert len(list(base.glob("*.safetensors"))) > 2
    monkeypatch.setattr(merging, "SHARD", 25_000)
    done = merge(adapter, out)
    shards = sorted(out.glob("*.safetensors"))
    assert done.shards == len(shards) > 2 and done.layers == 14
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.bytes
    assert index["weight_map"] == {name: path.name for path in shards for name in load_file(path)}
    filled = [sum(tensor.nbytes for tensor in load_file(path).values()) for path in shards]
    assert max(filled) <= 25_000 and min(one + next_one for one, next_one in pairwise(filled)) > 25_000
    _agree(adapter, base, out, AutoModelForCausalLM)


def test_a_trained_head_on_a_body(tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    _saved_base(BERT, base, torch.float32, AutoModel)
    config = DualLoraConfig(target_modules=["query"], task_type="SEQ_CLS", bias="dual_lora_only")
    auto = AutoModelForSequenceClassification
    _saved_adapter(config, base, adapter, auto, num_labels=3)
    merge(adapter, out)
    _agree(adapter, base, out, auto, num_labels=3)
    assert auto.from_pretrained(out).config.num_labels == 3


def test_the_adapters_own_tokenizer_is_taken(tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    _saved_base(LLAMA, base, torch.float32)
    _saved_adapter(DualLoraConfig(target_modules=["q_proj"]), base, adapter, AutoModelForCausalLM)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(adapter)
    (base / "modeling_evil.py").write_text("raise SystemExit")
    shutil.move(base, tmp_path / "elsewhere")
    merge(adapter, out, str(tmp_path / "elsewhere"))
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not list(out.glob("*.py"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter, and adapters that no weight can hold."""
    folder = tmp_path_factory.mktemp("good")
    _saved_base(TIED, folder / "base", torch.float32)
    configs = {
        "adapter": DualLoraConfig(target_modules=["q_proj"]),
        "lora": LoraConfig(target_modules=["q_proj"]),
        "parallel": BottleneckConfig(target_modules=["q_proj"]),
        "prefix": PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        "head": DualLoraConfig(target_modules=["lm_head"]),
    }
    for name, config in configs.items():
        _saved_adapter(config, folder / "base", folder / name, AutoModelForCausalLM)
    return folder


def _setting(**changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return damage


def _weights(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors, sorted(tensors)[0])
        save_file(tensors, path)

    return damage


REFUSED: list[tuple[str, Callable[[Path], Any], str]] = [
    ("parallel", lambda folder: None, "not linear in its input"),
    ("prefix", lambda folder: None, "a prefix is keys and values"),
    ("head", lambda folder: None, "ties the two"),
    ("adapter", _setting(peft_type="NO_SUCH"), "peft has no such method"),
    ("adapter", _setting(peft_type=["DUAL_LORA"]), "peft has no such method"),
    ("adapter", _setting(peft_type="VERA"), "use merge_and_unload"),
    ("adapter", _setting(magnitude_rank="many"), "not a configuration of DUAL_LORA"),
    ("adapter", _setting(target_modules=["nothing"]), "does not fit LlamaForCausalLM"),
    ("adapter", _setting(target_modules=["q_proj", "v_proj"]), "it lacks"),
    ("adapter", _setting(magnitude_rank=3), "on this base it must be"),
    ("adapter", _setting(base_model_name_or_path=None), "names no base model"),
    ("adapter", _setting(base_model_name_or_path="./none"), "name a folder by --base"),
    ("adapter", _weights(lambda t, first: t.pop(first)), "it lacks"),
    ("adapter", _weights(lambda t, first: t.update(more=t[first].clone())), "it has more"),
    ("adapter", _weights(lambda t, first: t[first].fill_(float("nan"))), "no finite number"),
    ("adapter", _weights(lambda t, first: t[first].fill_(3e38)), "its merged weight holds"),
    ("adapter", lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
    ("adapter", lambda folder: (folder / "adapter_model.safetensors").unlink(), "is missing"),
    ("lora", _setting(megatron_config={"a": 1}, megatron_core="antigravity"), "megatron_co"),
    ("lora", _setting(init_lora_weights="pissa"), "changes the base model"),
]


@pytest.mark.parametrize(("name", "damage", "said"), REFUSED)
def test_what_cannot_be_merged_is_refused_in_one_line(
    name: str, damage: Callable[[Path], Any], said: str, good: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(good / name, tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(ConfigError) as caught:
        merge(tmp_path / "adapter", tmp_path / "out")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def _rename(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _index(content: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        _rename(folder)
        (folder / "model.safetensors.index.json").write_text(content)

    return damage


def _base_setting(**changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_rename, "a pickle is not read"),
        (_index("{"), "cannot be read"),
        (_index('{"weight_map": {"a": "../base/pytorch_model.bin"}}'), "no name of a safetensors file"),
        (_index('{"weight_map": {"a": "absent.safetensors"}}'), "cannot be read"),
        (_base_setting(num_hidden_layers=3), "does not fit|it lacks|its files lack"),
        (_base_setting(model_type="none"), "does not read its config.json"),
        (_base_setting(quantization_config={"quant_method": "gptq", "bits": 4}), "are quantised"),
    ],
)
def test_a_base_that_cannot_be_read_is_refused(
    damage: Callable[[Path], Any], said: str, good: Path, tmp_path: Path
) -> None:
    shutil.copytree(good / "base", tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(ConfigError, match=said) as caught:
        merge(good / "adapter", tmp_path / "out", str(tmp_path / "base"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_verb(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["merge", str(good / "adapter"), str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "merged: 2 layers\n" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "exists; name a folder that does not" in capsys.readouterr().err
