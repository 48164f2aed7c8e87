"""Ranks of matrices with known ranks, and of adapters with known updates."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from repro.analysis.rank import random_update, rank, ranks
from repro.config import ConfigError
from repro.methods.registry import METHODS
from repro.models import load_model_spec
from repro.models.loading import load_model


def matrix_with(values: list[float], d: int, k: int) -> torch.Tensor:
    """A (d, k) matrix with these singular values, in double precision."""
    torch.manual_seed(0)
    U, _ = torch.linalg.qr(torch.randn(d, len(values), dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(k, len(values), dtype=torch.float64))
    return U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.T


@pytest.mark.parametrize("count", [1, 3, 20])
def test_equal_singular_values_count_alike_under_every_measure(count: int) -> None:
    found = rank(matrix_with([2.5] * count, 40, 20))
    assert found.numerical == count
    assert found.stable == pytest.approx(count)
    assert found.effective == pytest.approx(count)
    assert found.ceiling == 20


def test_unequal_singular_values_by_hand() -> None:
    found = rank(matrix_with([4.0, 2.0, 1.0, 1e-9], 12, 9))
    assert found.numerical == 4  # 1e-9 is small, but far above 12 * 2.2e-16 * 4
    assert found.stable == pytest.approx((16 + 4 + 1) / 16)
    shares = [4 / 7, 2 / 7, 1 / 7]
    assert found.effective == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-6)
    assert found.spectrum[0] == 1 and found.spectrum[-1] == 0


def test_the_rounding_of_single_precision_is_not_taken_for_rank() -> None:
    """A product of rank 3 that was rounded to fp32 has full numerical rank; built in fp64 it has 3."""
    B, A = torch.randn(64, 3), torch.randn(3, 48)
    assert rank(B.double() @ A.double()).numerical == 3
    assert rank(B @ A).numerical == 48


def test_no_update_has_no_rank() -> None:
    found = rank(torch.zeros(5, 4))
    assert (found.numerical, found.stable, found.effective) == (0, 0, 0)


TARGETS = ["k_proj", "up_proj"]


def tiny() -> nn.Module:
    return load_model(load_model_spec("tiny-llama"), "causal_lm")


def test_lora_has_its_rank_and_dual_lora_more_than_its_factors() -> None:
    torch.manual_seed(0)
    lora = METHODS["lora"](rank=2).attach(tiny(), TARGETS, "causal_lm")
    assert {found.numerical for found in ranks(lora)} == {0}  # B starts at zero
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert {(r.module, r.numerical) for r in ranks(lora)} == {("k_proj", 2), ("up_proj", 2)}

    dual = METHODS["dual_lora"](magnitude_rank=2, direction_rank=2).attach(tiny(), TARGETS, "causal_lm")
    before = copy.deepcopy(dual.state_dict())
    found = {(r.module, r.part): r for r in ranks(dual) if ".0." in r.layer}
    assert set(found) == {(m, p) for m in TARGETS for p in ("update", "magnitude", "direction")}
    assert found["k_proj", "update"].shape == tuple(
        dual.base_model.model.model.layers[0].self_attn.k_proj.weight.shape
    )
    assert found["k_proj", "update"].numerical > 4  # above the rank of a LoRA of equal size
    assert all(torch.equal(tensor, before[name]) for name, tensor in dual.state_dict().items())

    layer = dual.base_model.model.model.layers[0].mlp.up_proj
    A, B, C, D = (layer.factors("default")[name].double() for name in "ABCD")
    relu, sign = (B @ A).clamp(min=0), torch.where(D @ C > 0, 1.0, -1.0).double()
    for part, matrix in [("update", relu * sign), ("magnitude", relu), ("direction", sign)]:
        own, expected = found["up_proj", part], rank(matrix)
        assert own.numerical == expected.numerical
        assert (own.stable, own.effective) == pytest.approx((expected.stable, expected.effective))


def test_an_untrained_update_reaches_the_ceiling() -> None:
    """The paper's near-full rank needs no training: Gaussian factors of rank 16 give it at 256 x 256."""
    found = {r.part: r for r in random_update(256, 16)}
    assert found["update"].numerical == found["direction"].numerical == 256
    assert found["magnitude"].numerical > 240
    assert found["update"].effective < 256


def test_a_model_without_updates_is_one_line() -> None:
    with pytest.raises(ConfigError, match="adds an update to its weight"):
        list(ranks(tiny()))
