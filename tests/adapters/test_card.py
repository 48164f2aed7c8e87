"""The model card of a saved adapter names the tuner, and its three lines load the adapter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.mora import MoraConfig


def _base() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    return AutoModelForCausalLM.from_config(config).eval()


def _saved(config: PeftConfig, folder: Path, name: str = "default") -> PeftModel:
    model = get_peft_model(_base(), config, adapter_name=name)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model


@pytest.mark.parametrize(
    ("config", "tag"), [(DualLoraConfig, "dual-lora"), (MoraConfig, "mora"), (BottleneckConfig, "bottleneck")]
)
def test_the_card_has_the_tuners_tag(config: type, tag: str, tmp_path: Path) -> None:
    _saved(config(target_modules=["up_proj"]), tmp_path)
    _saved(LoraConfig(target_modules=["up_proj"]), tmp_path / "lora")
    card, of_peft = (ModelCard.load(folder / "README.md") for folder in (tmp_path, tmp_path / "lora"))
    assert tag in card.data.tags and set(of_peft.data.tags) - {"lora"} < set(card.data.tags)
    assert card.data.library_name == "peft" and f"- PEFT {PeftConfig().peft_version}" in card.text


def test_a_card_is_kept_and_completed_once(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n\nIts prose.\n")
    for _ in range(2):
        _saved(DualLoraConfig(target_modules=["up_proj"]), tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and "# Mine\n\nIts prose.\n" in card.text
    assert card.text.count("import repro.adapters.dual_lora") == 1


def test_a_named_adapter_completes_the_card_above_its_folder(tmp_path: Path) -> None:
    _saved(DualLoraConfig(target_modules=["up_proj"]), tmp_path, name="second")
    assert (tmp_path / "second" / "adapter_config.json").is_file()
    card = ModelCard.load(tmp_path / "README.md")
    assert "dual-lora" in card.data.tags and '.from_pretrained("second")' in card.text


def test_a_configuration_alone_leaves_other_pages_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# A project\n")
    DualLoraConfig().save_pretrained(str(tmp_path / "adapter"))
    assert page.read_text() == "# A project\n" and not (tmp_path / "adapter" / "README.md").exists()


def test_the_three_lines_load_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _base().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, DualLoraConfig(target_modules=["up_proj"], task_type="CAUSAL_LM")).eval()
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    (lines,) = re.findall(r"```python\n(.*?)```", (tmp_path / "adapter/README.md").read_text(), re.DOTALL)
    assert len(lines.splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    scope: dict = {}
    exec(compile(lines, "README.md", "exec"), scope)
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(scope["model"].eval()(tokens).logits, model(tokens).logits)
