"""Tuners that add a linear map to a linear layer: their dW in float64, and the life of their adapters."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, TorchAoConfig
from transformers.pytorch_utils import Conv1D

from repro.adapters.additive import AdditiveLayer
from repro.adapters.flora import FloraConfig, FloraLayer
from repro.adapters.mora import MoraConfig, MoraLayer
from repro.models import load_model_spec
from repro.models.loading import load_model

BASE = load_model(load_model_spec("tiny-llama"), "causal_lm")
TOKENS = torch.arange(4, 36).reshape(2, 16)
TUNERS: dict[str, tuple[type[PeftConfig], dict[str, Any]]] = {
    "flora": (FloraConfig, {}),
    "mora rotation": (MoraConfig, {"compression": "rotation"}),
    "mora sharing": (MoraConfig, {"compression": "sharing"}),
}
tuners = pytest.mark.parametrize("tuner", TUNERS)


def config(tuner: str, **changes: Any) -> PeftConfig:
    config_class, settings = TUNERS[tuner]
    common = {"rank": 3, "target_modules": ["q_proj", "k_proj", "up_proj", "down_proj"]}
    return config_class(**common | settings | {"task_type": "CAUSAL_LM"} | changes)


def randomise(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, AdditiveLayer):
                for group in layer.adapter_layer_names:
                    for parameter in getattr(layer, group).values():
                        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def adapted(tuner: str, **changes: Any) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(BASE), config(tuner, **changes)).eval()
    randomise(model)
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def dense_mora(M: Tensor, d: int, k: int, compression: str) -> Tensor:
    """dW by entries: the input runs round until it fills its groups, the output until it has d entries."""
    side = len(M)
    groups = math.ceil(k / side)
    weight = torch.zeros(d, k, dtype=torch.float64)
    for group in range(groups):
        rotation = torch.eye(side, dtype=torch.float64)
        if compression == "rotation":
            for i in range(side // 2):
                angle = group / 10000 ** (2 * i / side)
                j = i + side // 2
                rotation[i, i] = rotation[j, j] = math.cos(angle)
                rotation[i, j], rotation[j, i] = -math.sin(angle), math.sin(angle)
        block = M @ rotation
        for coordinate in range(side):
            column = (group * side + coordinate) % k
            for row in range(d):
                if compression == "sharing" or row % (groups * side) // side == group:
                    weight[row, column] += block[row % side, coordinate]
    return weight


def dense(layer: AdditiveLayer, tuner: str) -> Tensor:
    d, k = layer.out_features, layer.in_features
    if isinstance(layer, FloraLayer):
        A, E, B = (getattr(layer, group)["default"].double() for group in layer.adapter_layer_names)
        return 24 / 3 * B @ E @ A
    assert isinstance(layer, MoraLayer)
    return dense_mora(layer.mora_M["default"].double(), d, k, tuner.split()[1])


# The last two have an M that is wider than their input.
@pytest.mark.parametrize(("d", "k"), [(16, 16), (20, 12), (12, 20), (7, 40), (40, 7), (31, 5), (2, 3)])
@pytest.mark.parametrize("conv", [False, True])
@tuners
def test_output_and_merged_weight_are_the_formula(tuner: str, conv: bool, d: int, k: int) -> None:
    torch.manual_seed(0)
    linear: Any = Conv1D(d, k) if conv else nn.Linear(k, d)
    weight = (linear.weight.t() if conv else linear.weight).detach().double()
    layer_class = FloraLayer if tuner == "flora" else MoraLayer
    alpha = {"alpha": 24.0} if tuner == "flora" else {}
    layer = layer_class(linear, "default", config(tuner, **alpha))  # type: ignore[arg-type]
    randomise(layer)
    x = torch.randn(2, 5, k)
    delta = dense(layer, tuner)
    assert delta.abs().max() > 0.01
    expected = x.double() @ (weight + delta).t() + linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    stored = delta.t() if conv else delta
    torch.testing.assert_close(layer.get_delta_weight("default").double(), stored, rtol=1e-5, atol=1e-6)
    layer.merge()
    torch.testing.assert_close(linear.weight.double(), (weight + delta).t() if conv else weight + delta)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("d", "k", "rank", "compression", "side"),
    [
        (4096, 4096, 8, "rotation", 256),  # 65,536 = LoRA's 8 * 8,192
        (13824, 5120, 8, "rotation", 388),  # sqrt(151,552) = 389.3, made even
        (13824, 5120, 8, "sharing", 389),
        (4096, 4096, 256, "sharing", 1448),
    ],
)
def test_m_is_as_large_as_the_factors_of_lora(d: int, k: int, rank: int, compression: str, side: int) -> None:
    with torch.device("meta"):
        layer = MoraLayer(nn.Linear(k, d), "default", MoraConfig(rank=rank, compression=compression))  # type: ignore[arg-type]
    assert layer.mora_M["default"].shape == (side, side)


def test_floras_factors_are_normal_and_its_core_is_zero() -> None:
    torch.manual_seed(0)
    layer = FloraLayer(nn.Linear(400, 300), "default", FloraConfig(rank=50))
    assert layer.flora_E["default"].count_nonzero() == 0
    for factor, shape in ((layer.flora_A, (50, 400)), (layer.flora_B, (300, 50))):
        assert factor["default"].shape == shape
        assert factor["default"].std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(factor["default"].mean().item()) < 0.001


@tuners
def test_a_new_adapter_leaves_the_base_model(tuner: str) -> None:
    assert torch.equal(logits(get_peft_model(copy.deepcopy(BASE), config(tuner))), logits(BASE))


@tuners
def test_a_disabled_adapter_leaves_the_base_model(tuner: str) -> None:
    model = adapted(tuner)
    expected = logits(model)
    assert not torch.allclose(expected, logits(BASE), atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(BASE))
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(BASE))
    assert torch.equal(logits(model), expected)  # disabling has unmerged it


@tuners
def test_several_adapters_are_kept_apart_and_deleted_one_by_one(tuner: str) -> None:
    model = adapted(tuner)
    first = logits(model)
    model.add_adapter("second", config(tuner, rank=2, target_modules=["q_proj", "v_proj"]))
    assert torch.equal(logits(model), first)
    assert {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad} == {"default"}
    model.set_adapter("second")
    assert torch.equal(logits(model), logits(BASE))  # it starts at zero
    randomise(model, seed=2)
    second = logits(model)
    model.base_model.set_adapter(["default", "second"])
    both = logits(model)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), both, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert torch.equal(logits(model), both)
    model.set_adapter("second")
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert not any("default" in key for key in model.state_dict())


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@tuners
def test_saved_adapters_come_back(tuner: str, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model = adapted(tuner)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(
        copy.deepcopy(BASE), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert torch.equal(logits(loaded), logits(model))


@tuners
def test_merging_keeps_the_function_and_unmerging_gives_the_same_bits_back(tuner: str) -> None:
    model = adapted(tuner)
    expected = logits(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is type(BASE)
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


@tuners
def test_a_broken_adapter_is_not_merged(tuner: str) -> None:
    model = adapted(tuner)
    layer = next(module for module in model.modules() if isinstance(module, AdditiveLayer))
    getattr(layer, layer.adapter_layer_names[0])["default"].data.fill_(float("inf"))
    with pytest.raises(ValueError, match="The adapter default seems to be broken: it has NaN"):
        model.merge_and_unload(safe_merge=True)


@tuners
def test_gpt2s_layers_are_adapted(tuner: str) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()
    model = get_peft_model(copy.deepcopy(base), config(tuner, target_modules=["c_attn", "c_fc"]))
    randomise(model)
    expected = logits(model)
    assert not torch.allclose(expected, logits(base), atol=1e-3)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=0, atol=1e-5)


@tuners
def test_adapters_of_a_half_precision_model_stay_in_full_precision(tuner: str) -> None:
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(BASE).to(torch.bfloat16), config(tuner))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    output = model(TOKENS, labels=TOKENS)
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()
    model.merge_adapter()
    assert model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").weight.dtype == torch.bfloat16


@tuners
def test_gradient_checkpointing_gives_the_same_gradients(tuner: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted(tuner).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(TOKENS, labels=TOKENS).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    for key, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, key
        torch.testing.assert_close(gradients[1][key], gradient)


@tuners
def test_impossible_settings_are_told_why(tuner: str) -> None:
    with pytest.raises(ValueError, match=r"rank must be at least 1 .got 0."):
        config(tuner, rank=0)
    with pytest.raises(ValueError, match=r"needs a torch.nn.Linear or Conv1D .got Embedding."):
        adapted(tuner, target_modules=["embed_tokens"])


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be 'rotation' or 'sharing' .got 'truncation'."):
        MoraConfig(compression="truncation")  # type: ignore[arg-type]


@tuners
def test_weights_that_torchao_has_quantised_are_adapted_and_merged(tuner: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    BASE.save_pretrained(tmp_path)
    int8 = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    model = get_peft_model(type(BASE).from_pretrained(tmp_path, quantization_config=int8), config(tuner))
    randomise(model)
    expected = logits(model)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0.05)
