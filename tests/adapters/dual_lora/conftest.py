"""A tiny LLaMA to adapt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from repro.adapters.dual_lora import DualLoraConfig

TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


@pytest.fixture
def base_llama() -> Callable[[], LlamaForCausalLM]:
    """A function that makes the same two-layer model each time."""

    def make() -> LlamaForCausalLM:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return LlamaForCausalLM(config)

    return make


@pytest.fixture
def dual_llama(base_llama: Callable[[], LlamaForCausalLM]) -> Callable[..., PeftModel]:
    """A function that adapts that model: it takes the adapter's seed and the fields of its configuration."""

    def make(seed: int = 0, **fields: object) -> PeftModel:
        # A large alpha and init_std: dW is as large as the weights, so a test cannot pass by a negligible dW.
        settings = {
            "magnitude_rank": 3,
            "alpha": 32.0,
            "target_modules": TARGETS,
            "init_std": 0.3,
            "task_type": "CAUSAL_LM",
        }
        base = base_llama()
        torch.manual_seed(seed)
        return get_peft_model(base, DualLoraConfig(**(settings | fields)))

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 31, (2, 7), generator=torch.Generator().manual_seed(1))
