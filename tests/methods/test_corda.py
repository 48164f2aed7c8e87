"""CorDA's start against a dense decomposition in double precision, and what it asks for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from repro.methods import METHODS, MethodError
from repro.models import load_model_spec
from repro.models.loading import load_model

SPEC = load_model_spec("tiny-bert")
INPUTS = [{"input_ids": torch.arange(8 + i, 40 + 3 * i)[None]} for i in range(5)]
NAME = "bert.encoder.layer.1.attention.self.query"
RANK = 4


@pytest.fixture(scope="module")
def base() -> nn.Module:
    torch.manual_seed(0)
    return load_model(SPEC, "seq_cls", num_labels=2)


def started(base: nn.Module, component: str) -> nn.Module:
    method = METHODS["corda"](rank=RANK, component=component, samples=5)
    model = copy.deepcopy(base)
    method.calibrate(model, INPUTS, ["query", "value"], "seq_cls")
    return method.attach(model, ["query", "value"], "seq_cls").eval()


def covariance(base: nn.Module) -> Tensor:
    """Mean over examples of X^T X, each X divided by its largest entry, with peft's 1 % on the diagonal."""
    seen: list[Tensor] = []
    layer = base.get_submodule(NAME)
    handle = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0].double()))
    with torch.no_grad():
        for batch in INPUTS:
            base(**batch)
    handle.remove()
    mean = sum((x / x.max().abs()).T @ (x / x.max().abs()) for x in seen) / len(seen)
    return mean + 0.01 * mean.diagonal().mean() * torch.eye(len(mean))


@pytest.mark.parametrize("component", ["ipm", "kpm"])
def test_the_start_is_the_decomposition_in_the_light_of_the_inputs(base: nn.Module, component: str) -> None:
    layer = started(base, component).get_base_model().get_submodule(NAME)
    weight = base.get_submodule(NAME).weight.detach().double()
    c = covariance(base)
    u, s, v = torch.linalg.svd(weight @ c)
    chosen = slice(RANK) if component == "ipm" else slice(-RANK, None)
    part = u[:, chosen] @ torch.diag(s[chosen]) @ v[chosen] @ torch.linalg.inv(c)
    found = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    tolerance = 2e-3 * part.abs().max().item()
    torch.testing.assert_close(found.double(), part, rtol=0, atol=tolerance)
    torch.testing.assert_close(layer.base_layer.weight.double() + found.double(), weight, rtol=0, atol=1e-6)


def test_calibration_is_the_same_again_and_leaves_nothing_behind(base: nn.Module) -> None:
    first, again = (started(base, "ipm").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    left = {key for module in started(base, "ipm").modules() for key in vars(module)}
    assert not left & {"eigens", "covariance_matrix", "sample_count"}


def test_it_wants_to_be_calibrated(base: nn.Module) -> None:
    method = METHODS["corda"]()
    with pytest.raises(MethodError, match="corda: the model was not calibrated"):
        method.attach(copy.deepcopy(base), ["query"], "seq_cls")
    with pytest.raises(MethodError, match="corda: no training example to calibrate on"):
        method.calibrate(copy.deepcopy(base), [], ["query"], "seq_cls")
    with pytest.raises(MethodError, match="lora: has no calibration"):
        METHODS["lora"]().calibrate(base, INPUTS, ["query"], "seq_cls")
