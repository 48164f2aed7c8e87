"""Programs that train peft's adapters, with Dual LoRA: they train, count the ramp, and save what loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from repro.adapters.dual_lora import DualLoraConfig, DualLoraLayer
from repro.models.loading import byte_tokenizer

STEPS = 3
CONFIG = DualLoraConfig(
    magnitude_rank=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", warmup_steps=4
)
TEXTS = ["to be or not to be", "that is the question", "whether 'tis nobler", "in the mind to suffer"]
ARGUMENTS: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=260, pad_token_id=3, max_position_embeddings=64, **size))


def check_trained(model: Any, before: dict[str, torch.Tensor], folder: Path) -> None:
    """Every adapter counted the optimiser's steps and moved; what is saved gives the same outputs."""
    layers = [module for module in model.modules() if isinstance(module, DualLoraLayer)]
    assert [int(layer.dual_lora_step["default"]) for layer in layers] == [STEPS] * 4
    after = dict(model.named_parameters())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == [name for name in before if "dual_lora" in name] and len(moved) == 16
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(), folder).eval()
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits, rtol=0, atol=0)


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def tokens() -> list[dict[str, list[int]]]:
    ids = [byte_tokenizer()(text.ljust(24)).input_ids for text in TEXTS]
    return [{"input_ids": row, "labels": row} for row in ids]


def test_transformers_trainer(tmp_path: Path) -> None:
    model = get_peft_model(base(), CONFIG)
    before = copies(model)
    Trainer(model, TrainingArguments(str(tmp_path), **ARGUMENTS), train_dataset=tokens()).train()
    check_trained(model, before, tmp_path / "adapter")


def test_accelerate(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model: Any = get_peft_model(base(), CONFIG)
    before = copies(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(trained, lr=0.01))
    for row in (tokens() * 2)[: 2 * STEPS]:
        with accelerator.accumulate(model):
            ids = torch.tensor([row["input_ids"]])
            accelerator.backward(model(input_ids=ids, labels=ids).loss)
            optimizer.step()
            optimizer.zero_grad()
    check_trained(accelerator.unwrap_model(model), before, tmp_path / "adapter")


def test_sft_trainer_builds_the_adapter_itself(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    trainer = trl.SFTTrainer(
        base(),
        args=trl.SFTConfig(str(tmp_path), max_length=32, bf16=False, **ARGUMENTS),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=byte_tokenizer(),
        peft_config=CONFIG,
    )
    before = copies(trainer.model)
    trainer.train()
    check_trained(trainer.model, before, tmp_path / "adapter")


def test_dpo_trainer_takes_the_model_without_its_adapter_for_the_reference(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    pairs = {"prompt": TEXTS, "chosen": [" yes"] * 4, "rejected": [" no"] * 4}
    trainer = trl.DPOTrainer(
        base(),
        args=trl.DPOConfig(str(tmp_path), max_length=48, bf16=False, **ARGUMENTS),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=byte_tokenizer(),
        peft_config=CONFIG,
    )
    before = copies(trainer.model)
    trainer.train()
    check_trained(trainer.model, before, tmp_path / "adapter")
