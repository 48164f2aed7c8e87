"""Shapes and counts by formula, against transformers' own models on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from repro.models import ModelSpec, base_parameters, linear_shapes, list_models, load_model_spec
from repro.models.gpt2 import split_attention_inputs

MODELS = list_models()

# protocols of the paper's tables; GPT-2 M is printed as 354.92M, a slip that LoRA's table already has.
PAPER_TOTALS = {
    "llama-7b": 6_738_415_616,
    "llama2-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
}


def built(spec: ModelSpec) -> nn.Module:
    """transformers' model of a description, without memory for its weights."""
    config = AutoConfig.for_model(**spec.architecture)
    causal = spec.architecture["model_type"] in ("llama", "gpt2")
    with torch.device("meta"):
        model = (AutoModelForCausalLM if causal else AutoModelForSequenceClassification).from_config(config)
    split_attention_inputs(model)
    return model


def out_in(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    assert isinstance(module, Conv1D)
    return module.nf, module.nx


@pytest.mark.parametrize(("name", "total"), PAPER_TOTALS.items())
def test_base_total_is_the_papers(name: str, total: int) -> None:
    assert base_parameters(load_model_spec(name).architecture) == total


@pytest.mark.parametrize("name", MODELS)
def test_base_total_is_that_of_the_built_model(name: str) -> None:
    spec = load_model_spec(name)
    model = built(spec)
    heads = {"classifier", "pooler"}  # of the encoders' task; BERT's own pooler is inside `bert`
    counted = {id(p): p.numel() for key, p in model.named_parameters() if key.split(".")[0] not in heads}
    assert base_parameters(spec.architecture) == sum(counted.values())


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_map_of_a_block_has_the_built_modules_shape(name: str) -> None:
    spec = load_model_spec(name)
    blocks = {
        key: out_in(module)
        for key, module in built(spec).named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(part.isdigit() for part in key.split("."))
    }
    assert {shape.name: shape[1:] for shape in linear_shapes(spec.architecture)} == blocks


@pytest.mark.parametrize("name", MODELS)
def test_targets_select_what_peft_selects(name: str) -> None:
    spec = load_model_spec(name)
    for modules in spec.targets.values():
        selected = {
            key
            for key, _ in built(spec).named_modules()
            if any(key == target or key.endswith(f".{target}") for target in modules)
        }
        assert {shape.name for shape in linear_shapes(spec.architecture, modules)} == selected


LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 8}


@pytest.mark.parametrize(
    ("architecture", "targets", "message"),
    [
        ({"model_type": "mamba"}, None, "unknown model_type 'mamba'; known: bert, .*llama"),
        ({}, None, "unknown model_type None"),
        (LLAMA, None, "a llama model needs the key 'intermediate_size'"),
        (
            load_model_spec("tiny-llama").architecture,
            ["query"],
            "target 'query' is no linear module of a llama",
        ),
    ],
)
def test_what_cannot_be_known_is_said(architecture: dict[str, Any], targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_shapes(architecture, targets)
