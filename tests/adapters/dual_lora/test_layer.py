"""The life of an adapted layer: linear, Conv1D and quantised; merged, unmerged, switched and deleted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from repro.adapters import mergeable
from repro.adapters.dual_lora import DualLoraConfig, DualLoraLayer, model

LAYERS = {"linear": lambda: nn.Linear(20, 12), "conv1d": lambda: Conv1D(12, 20)}


def adapt(base: nn.Module, **fields: Any) -> Any:
    settings = {"magnitude_rank": 3, "alpha": 6.0, "init_std": 0.5, "target_modules": ["0"]}
    return get_peft_model(nn.Sequential(base), DualLoraConfig(**(settings | fields))).eval()


def adapted_layer(peft_model: Any) -> Any:
    return next(module for module in peft_model.modules() if isinstance(module, DualLoraLayer))


def dense_delta(module: Any, name: str = "default") -> Tensor:
    """s ReLU(B A) Sign(D C) of shape (out, in), in float64."""
    A, B, C, D = (getattr(module, f"dual_lora_{group}")[name].detach().double() for group in "ABCD")
    sign = torch.where(D @ C > 0, 1.0, -1.0)
    return 6.0 / (len(A) * len(C)) ** 0.5 * torch.relu(B @ A) * sign


def dense_weight(base: Any) -> Tensor:
    """The base weight of shape (out, in), in float64."""
    weight = base.weight.detach().double()
    return weight.T if isinstance(base, Conv1D) else weight


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def base(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = request.param()
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 5, 20, generator=torch.Generator().manual_seed(5))


def test_output_is_that_of_the_dense_weight(base: nn.Module, x: Tensor) -> None:
    adapted = adapt(base, direction_rank=5)
    module = adapted_layer(adapted)
    expected = x.double() @ (dense_weight(base) + dense_delta(module)).T + base.bias.double()
    torch.testing.assert_close(adapted(x).double(), expected, rtol=1e-5, atol=1e-5)
    delta = module.get_delta_weight("default")
    assert delta.shape == base.weight.shape
    torch.testing.assert_close(delta.T if isinstance(base, Conv1D) else delta, dense_delta(module).float())


def test_gradients_are_those_of_the_dense_weight(base: nn.Module, x: Tensor) -> None:
    adapted = adapt(base, clip="none").train()
    module = adapted_layer(adapted)
    module.warmup_steps["default"] = 1
    adapted(x).sum().backward()
    G = torch.ones(12, 20) @ x.sum((0, 1)).diag()
    A, B, C, D = (getattr(module, f"dual_lora_{group}")["default"] for group in "ABCD")
    s, sign = 6.0 / 3, torch.where(D @ C > 0, 1.0, -1.0)
    H, K = s * G * sign * (B @ A > 0), s * G * torch.relu(B @ A)
    for factor, expected in ((A, B.T @ H), (B, H @ A.T), (C, D.T @ K), (D, K @ C.T)):
        torch.testing.assert_close(factor.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merge_and_exact_unmerge(base: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    base, x = base.to(dtype), x.to(dtype)
    adapted = adapt(base).train()  # merging ignores the warm-up, which only training knows
    before = base.weight.detach().clone()
    whole = dense_weight(base) + dense_delta(adapted_layer(adapted))
    eps = torch.finfo(dtype).eps

    adapted.merge_adapter()
    assert (dense_weight(base) - whole).abs().le(eps * whole.abs() + 1e-6).all()  # rounded once, from fp32
    adapted.unmerge_adapter()

    with torch.no_grad():
        plain, expected = base(x), adapted.eval()(x)
        adapted.merge_adapter()
        # The same weight, in matrix products of another layout: only the order of sums can differ.
        torch.testing.assert_close(adapted(x), expected, rtol=2 * eps, atol=8 * eps)

    with pytest.warns(UserWarning, match="already merged"):
        once = base.weight.detach().clone()
        adapted.merge_adapter()
    assert torch.equal(base.weight, once)

    adapted.unmerge_adapter()
    assert torch.equal(base.weight, before)
    assert torch.equal(adapted(x), expected)
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), plain)


def test_disabling_a_merged_adapter_unmerges_it(base: nn.Module, x: Tensor) -> None:
    plain = base(x)
    adapted = adapt(base)
    adapted.merge_adapter()
    assert not torch.allclose(adapted(x), plain)
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), plain)


def test_factors_stay_in_fp32_over_a_bf16_layer(base: nn.Module, x: Tensor) -> None:
    adapted = adapt(base.bfloat16())
    assert {p.dtype for n, p in adapted.named_parameters() if "dual_lora" in n} == {torch.float32}
    assert adapted(x.bfloat16()).dtype == torch.bfloat16


def test_unload_with_and_without_merging(base: nn.Module, x: Tensor) -> None:
    plain = base(x)
    adapted = adapt(base)
    expected = adapted(x)
    weight = base.weight.detach().clone()
    assert torch.equal(adapted.unload()(x), plain) and torch.equal(base.weight, weight)

    adapted = adapt(base)
    expected = adapted(x)
    merged = adapted.merge_and_unload()
    assert type(merged[0]) is type(base)
    torch.testing.assert_close(merged(x), expected)


def test_safe_merge_refuses_a_broken_adapter(base: nn.Module) -> None:
    adapted = adapt(base)
    weight = base.weight.detach().clone()
    adapted_layer(adapted).dual_lora_B["default"].data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="The adapter default seems to be broken: it has NaN"):
        adapted.merge_adapter(safe_merge=True)
    assert torch.equal(base.weight, weight) and not adapted_layer(adapted).merged


def test_several_adapters(base: nn.Module, x: Tensor) -> None:
    adapted = adapt(base)
    adapted.add_adapter(
        "second", DualLoraConfig(magnitude_rank=2, alpha=6.0, init_std=0.5, target_modules=["0"])
    )
    module, W0 = adapted_layer(adapted), dense_weight(base)
    first, second = dense_delta(module), dense_delta(module, "second")

    def output(weight: Tensor) -> Tensor:
        return (x.double() @ weight.T + base.bias.double()).float()

    def trainable() -> set[str]:
        return {name.split(".")[-1] for name, p in adapted.named_parameters() if p.requires_grad}

    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(adapted(x), output(W0 + first), **close)
    assert trainable() == {"default"}
    adapted.set_adapter("second")
    torch.testing.assert_close(adapted(x), output(W0 + second), **close)
    assert trainable() == {"second"}
    adapted.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(adapted(x), output(W0 + first + second), **close)
    assert trainable() == {"default", "second"}

    adapted.merge_adapter()
    at_once = base.weight.detach().clone()
    adapted.unmerge_adapter()
    adapted.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        adapted.merge_adapter(["second"])
    assert torch.equal(base.weight, at_once)
    torch.testing.assert_close(dense_weight(base), W0 + first + second, **close)
    adapted.unmerge_adapter()

    adapted.delete_adapter("second")
    assert not any("second" in name for name in adapted.state_dict())
    torch.testing.assert_close(adapted(x), output(W0 + first), **close)
    with pytest.warns(UserWarning, match="Adapter default was active"):
        adapted.add_adapter("third", DualLoraConfig(target_modules=["0"], alpha=6.0))
        adapted.delete_adapter("default")
    torch.testing.assert_close(adapted(x), output(W0 + dense_delta(module, "third")), **close)


def test_a_mask_drawn_anew_is_another_one_and_a_function_of_the_draw(base: nn.Module, x: Tensor) -> None:
    adapted = adapt(base, direction="fixed", magnitude_activation="sigmoid", alpha=1e3)
    module = adapted_layer(adapted)
    name, first = "default", module.dual_lora_seed["default"].clone()
    outputs, signs = [adapted(x)], [module.get_delta_weight(name).sign()]
    for draw in (1, 2, 1):
        module.dual_lora_seed[name] = first.clone()
        module.draw_mask_anew(name, draw)
        outputs.append(adapted(x))
        signs.append(module.get_delta_weight(name).sign())
    assert torch.equal(outputs[1], outputs[3]) and torch.equal(signs[1], signs[3])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outputs[one], outputs[other], atol=1)
        assert 0.35 < float((signs[one] == signs[other]).float().mean()) < 0.65  # 240 signs: 4.6 deviations
    module.merge()
    with pytest.raises(ValueError, match="'default', which is merged; unmerge it first"):
        module.draw_mask_anew(name, 1)
    with pytest.raises(ValueError, match="'default', which has no mask"):
        adapted_layer(adapt(nn.Linear(20, 12))).draw_mask_anew(name, 1)


def test_other_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="0 is a ConvTranspose1d: Dual LoRA adapts"):
        adapt(nn.ConvTranspose1d(5, 4, 3))
    with pytest.raises(ValueError, match="MultiheadAttention reads this weight past any adapter"):
        adapt(nn.MultiheadAttention(8, 2), target_modules=["out_proj"])
    for settings in ({"max_norm": 1.0}, {"sparse": True}):
        with pytest.raises(ValueError, match="0: Dual LoRA cannot adapt an Embedding with "):
            adapt(nn.Embedding(5, 4, **settings))


class Int8Linear(nn.Module):
    """A linear layer that stores whole steps of 1/32."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        codes = (source.weight.detach() * 32).round().clamp(-127, 127).to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float() / 32, self.bias)


class Int8Backend(QuantizationBackend):
    layer_type = "linear"
    backend_name = "steps"

    def __init__(self, supports_merge: bool) -> None:
        self.supports_merge = supports_merge

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        return base_layer.weight.float() / 32

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        codes = (weight_data * 32).round().clamp(-127, 127).to(torch.int8)
        peft_layer.get_base_layer().weight = nn.Parameter(codes, requires_grad=False)


def use_backend(monkeypatch: pytest.MonkeyPatch, supports_merge: bool) -> None:
    for module in (mergeable, model):
        monkeypatch.setattr(
            module, "resolve_quantization_backend", lambda *_, **__: Int8Backend(supports_merge)
        )


def test_quantised_layer(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    # peft's own backends (bitsandbytes and others) offer the two functions of this one.
    use_backend(monkeypatch, supports_merge=True)
    torch.manual_seed(0)
    base = Int8Linear(nn.Linear(20, 12))
    adapted = adapt(base)
    module, codes = adapted_layer(adapted), base.weight.clone()
    weight = (codes.double() / 32 + dense_delta(module)).float()
    torch.testing.assert_close(adapted(x), x @ weight.T + base.bias, rtol=1e-5, atol=1e-5)

    stored: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        y = adapted(x)
    y.sum().backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    assert not [t for t in stored if t.shape == (12, 20)]  # nothing unpacked waits for the backward pass

    adapted.merge_adapter()
    torch.testing.assert_close(base.weight / 32, weight, rtol=0, atol=0.51 / 32)
    adapted.unmerge_adapter()
    assert torch.equal(base.weight, codes)


def test_weight_that_cannot_be_unpacked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(monkeypatch, supports_merge=False)
    with pytest.raises(
        ValueError, match=r"0: Dual LoRA needs the weight itself, which steps cannot unpack\. Load"
    ):
        adapt(Int8Linear(nn.Linear(20, 12)))


@pytest.mark.parametrize("group", "ABCD")
def test_a_magnitude_factor_of_zero_never_trains_and_a_direction_factor_of_zero_does(group: str) -> None:
    """Section 3.3: 1{BA>0} or ReLU(BA) is in every gradient of Eq. 12; with C or D zero, dW is not zero."""
    torch.manual_seed(0)
    adapted = adapt(nn.Linear(20, 12)).train()
    layer = adapted_layer(adapted)
    factors = {name: getattr(layer, f"dual_lora_{name}")["default"] for name in "ABCD"}
    with torch.no_grad():
        factors[group].zero_()
    adapted(torch.randn(5, 20)).square().sum().backward()
    moving = [name for name, factor in factors.items() if factor.grad is not None and factor.grad.any()]
    if group in "AB":
        assert moving == [] and not dense_delta(layer).any()
    else:
        assert {"A", "B"} <= set(moving) and {"C": "D", "D": "C"}[group] not in moving
        assert group in moving and dense_delta(layer).any()
