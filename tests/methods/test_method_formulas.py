"""A method's merged weight against the published formula in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from repro.methods import METHODS, Method
from repro.models import load_model_spec
from repro.models.loading import load_model

SPEC = load_model_spec("tiny-llama")
TARGETS = SPEC.targets_for("commonsense")
BASE = load_model(SPEC, "causal_lm")

# Square, wide and tall, as (out, in): (64, 64), (32, 64), (128, 64), (64, 128).
LAYERS = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"]


def factors(layer: nn.Module) -> dict[str, Tensor]:
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return {key.removesuffix(".default"): value.detach().double() for key, value in tensors}


def lora(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    return weight + 20 / 5 * f["lora_B.default.weight"] @ f["lora_A.default.weight"]


def dora(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    direction = lora(weight, f)
    magnitude = f["lora_magnitude_vector.default.weight"]
    return magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)


def delta(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    product = f["delta_lora_B"] @ f["delta_lora_A"]
    at_start = f["delta_lora_start_B"] @ f["delta_lora_start_A"]
    return weight + 20 / 5 * (product + 0.5 * (product - at_start))


def hira(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    return weight * (1 + f["hira_B"] @ f["hira_A"])


def loha(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    first, second = (f[f"hada_w{i}_a"] @ f[f"hada_w{i}_b"] for i in (1, 2))
    return weight + 20 / 5 * first * second


def vera(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    rows, columns = weight.shape  # of the one pair of matrices that all layers share
    B, A = f["vera_B"][:rows], f["vera_A"][:, :columns]
    return weight + f["vera_lambda_b"].diag() @ B @ f["vera_lambda_d"].diag() @ A


def flora(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    return weight + 20 / 5 * f["flora_B"] @ f["flora_E"] @ f["flora_A"]


def mora(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    M = f["mora_M"]
    (rows, columns), side = weight.shape, len(M)
    compress = torch.zeros(side, columns, dtype=torch.float64)
    for position in range(-(-columns // side) * side):
        compress[position % side, position % columns] += 1
    return weight + torch.stack([M[row % side] for row in range(rows)]) @ compress


def dual(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    magnitude = (f["dual_lora_B"] @ f["dual_lora_A"]).relu()
    direction = torch.where(f["dual_lora_D"] @ f["dual_lora_C"] > 0, 1.0, -1.0)
    return weight + 20 / (5 * 3) ** 0.5 * magnitude * direction


CASES: dict[str, tuple[Method, Callable[[Tensor, dict[str, Tensor]], Tensor]]] = {
    "lora": (METHODS["lora"](rank=5, alpha=20), lora),
    "lora_plus": (METHODS["lora_plus"](rank=5, alpha=20), lora),
    "dora": (METHODS["dora"](rank=5, alpha=20), dora),
    "delta_lora": (METHODS["delta_lora"](rank=5, alpha=20, update_ratio=0.5), delta),
    "hira": (METHODS["hira"](rank=5), hira),
    "loha": (METHODS["loha"](rank=5, alpha=20), loha),
    "vera": (METHODS["vera"](rank=5), vera),
    "flora": (METHODS["flora"](rank=5, alpha=20), flora),
    "mora": (METHODS["mora"](rank=5, compression="sharing"), mora),
    "dual_lora": (METHODS["dual_lora"](magnitude_rank=5, direction_rank=3, alpha=20), dual),
}


def randomised(method: Method) -> nn.Module:
    """A model whose adapters are far from their start, where most formulas agree."""
    torch.manual_seed(0)
    model = method.attach(copy.deepcopy(BASE), TARGETS, "causal_lm")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", CASES)
def test_merged_weight_is_the_published_formula(name: str) -> None:
    method, formula = CASES[name]
    model = randomised(method)
    expected = {}
    for layer in LAYERS:
        path = f"model.layers.1.{layer}"
        adapted = model.get_submodule(f"base_model.model.{path}")
        expected[path] = formula(BASE.get_submodule(path).weight.double(), factors(adapted))
    merged = method.merge(model)
    for path, weight in expected.items():
        torch.testing.assert_close(merged.get_submodule(path).weight.double(), weight, rtol=1e-5, atol=1e-6)


def test_randlora_is_the_scaled_sum_of_its_random_bases() -> None:
    rank = 6
    method = METHODS["randlora"](rank=rank, alpha=18)
    model = randomised(method)
    expected = {}
    for layer in LAYERS:
        path = f"model.layers.1.{layer}"
        adapted = model.get_submodule(f"base_model.model.{path}")
        weight = BASE.get_submodule(path).weight.double()
        small, large = sorted(weight.shape)
        bases = -(-small // rank)
        A, B = (getattr(adapted, f"randlora_{name}")["default"].double() for name in "AB")
        scales, gammas = (
            getattr(adapted, f"randlora_{name}")["default"].double() for name in ("lambda", "gamma")
        )
        # peft uses the columns of B in another order than it stores them: basis n has n, n + bases, ...
        # They are fixed random numbers, so the method is the same.
        columns = B[:large, :bases].flatten(1)
        update = torch.zeros(large, small, dtype=torch.float64)
        for n in range(bases):
            update += columns[:, n::bases] @ scales[:, n].diag() @ A[:, 0, :small] @ gammas[n].diag()
        expected[path] = weight + 18 / rank * (update if weight.shape[0] == large else update.t())
    merged = method.merge(model)
    for path, weight in expected.items():
        torch.testing.assert_close(merged.get_submodule(path).weight.double(), weight, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    tokens = torch.arange(4, 20)[None]
    for name in ("lora", "lora_plus", "dora", "randlora", "vera", "mora", "flora", "adapter_p"):
        model = randomised(METHODS[name](dropout=0.5))
        runs = {mode: [model.train(mode)(tokens).logits for _ in range(2)] for mode in (True, False)}
        assert not torch.equal(*runs[True]), name
        assert torch.equal(*runs[False]), name
