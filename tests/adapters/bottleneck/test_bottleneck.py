"""The bottleneck tuner as a tuner of peft: its function, and the life of its adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from repro.adapters.bottleneck import BottleneckConfig, ParallelBottleneck
from repro.models import load_model_spec
from repro.models.loading import load_model

BASE = load_model(load_model_spec("tiny-llama"), "causal_lm")
TOKENS = torch.arange(4, 36).reshape(2, 16)
TARGETS = ["up_proj", "down_proj"]


def config(**changes: object) -> BottleneckConfig:
    settings = {"bottleneck_size": 8, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"} | changes
    return BottleneckConfig(**settings)  # type: ignore[arg-type]


def adapted(**changes: object) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(BASE), config(**changes)).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize(("bias", "scaling"), [(True, 1.0), (False, 0.5), ("Conv1D", 0.5)])
def test_output_is_the_formula(bias: bool | str, scaling: float) -> None:
    torch.manual_seed(0)
    linear: Any = Conv1D(20, 12) if bias == "Conv1D" else nn.Linear(12, 20, bias=bool(bias))
    weight = linear.weight.t() if bias == "Conv1D" else linear.weight
    layer = ParallelBottleneck(linear, "default", config(scaling=scaling))
    x = torch.randn(3, 5, 12)
    D = layer.bottleneck_down["default"].weight.double()
    U = layer.bottleneck_up["default"].weight.double()
    expected = nn.functional.linear(x, weight, linear.bias).double()
    expected += scaling * torch.tanh(x.double() @ D.t()) @ U.t()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-6)
    assert (D.shape, U.shape) == ((8, 12), (20, 8))


def test_both_projections_start_like_berts() -> None:
    model = adapted(bottleneck_size=256)
    for layer in (module for module in model.modules() if isinstance(module, ParallelBottleneck)):
        for projection in (layer.bottleneck_down["default"], layer.bottleneck_up["default"]):
            assert projection.bias is None
            assert projection.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(projection.weight.mean().item()) < 0.001


def test_llamas_feed_forward_projections_are_the_default_targets() -> None:
    model = adapted(target_modules=None)
    names = {key.rsplit(".", 1)[-1] for key, m in model.named_modules() if isinstance(m, ParallelBottleneck)}
    assert names == set(TARGETS)


def test_a_disabled_adapter_leaves_the_base_model() -> None:
    model = adapted()
    assert not torch.equal(logits(model), logits(BASE))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(BASE))


def test_several_adapters_are_kept_apart_and_deleted_one_by_one() -> None:
    model = adapted()
    first = logits(model)
    model.add_adapter("second", config(bottleneck_size=4))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(model)
    assert not torch.equal(second, first)
    model.base_model.set_adapter(["default", "second"])
    assert not torch.equal(logits(model), first)
    model.set_adapter("second")
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert not any("default" in key for key in model.state_dict())


def test_saved_adapters_come_back(tmp_path: Path) -> None:
    model = adapted(scaling=2.0)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(copy.deepcopy(BASE), str(tmp_path)).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_merging_is_refused_and_unloading_gives_the_base_model_back() -> None:
    model = adapted()
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged into a weight"):
            merge()
    assert torch.equal(logits(model.unload()), logits(BASE))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted().train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(TOKENS, labels=TOKENS).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, key
        torch.testing.assert_close(gradients[1][key], gradient)


def test_adapters_of_a_half_precision_model_stay_in_full_precision() -> None:
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(BASE).to(torch.bfloat16), config())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    output = model(TOKENS, labels=TOKENS)
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()


def test_only_a_linear_layer_can_be_adapted() -> None:
    with pytest.raises(ValueError, match=r"needs a torch.nn.Linear or Conv1D .got Embedding."):
        adapted(target_modules=["embed_tokens"])


def test_an_empty_bottleneck_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bottleneck_size must be at least 1 .got 0."):
        config(bottleneck_size=0)
