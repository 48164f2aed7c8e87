"""The curvature at a run's start: products and eigenvalue against a dense Hessian by formula in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from repro.adapters.dual_lora import DualLoraConfig
from repro.analysis.curvature import differentiable, hessian_product, largest_eigenvalue, run_curvature
from repro.cli import main
from repro.config import ConfigError
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.runs.bases import BaseModels
from repro.runs.known_curvature import known_curvature
from repro.runs.store import Store

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.randn(7, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def factors_of(model: nn.Module, kind: str) -> list[Tensor]:
    return [p.detach() for name, p in model.named_parameters() if kind in name]


def dual_deltas(model: nn.Module, factors: Sequence[Tensor], direction: str) -> Iterator[Tensor]:
    """dW of each layer by formula; `factors` are A, B of each layer, with C, D where they are smooth."""
    each = len(factors) // 2
    fixed = list(zip(factors_of(model, "dual_lora_C"), factors_of(model, "dual_lora_D"), strict=True))
    for layer, (C, D) in enumerate(fixed):
        A, B, *rest = factors[layer * each : (layer + 1) * each]
        S = torch.where(D @ C > 0, 1.0, -1.0).double() if direction == "sign" else rest[1] @ rest[0]
        yield 3.0 * (B @ A).relu() * S


def output(weights: Sequence[Tensor]) -> Tensor:
    return (X @ weights[0].T).tanh() @ weights[1].T


KINDS = {
    "sign": DualLoraConfig(magnitude_rank=2, alpha=6.0, init_std=0.7, target_modules=["0", "2"]),
    "identity": DualLoraConfig(
        magnitude_rank=2,
        alpha=6.0,
        init_std=0.7,
        direction="identity",
        clip="none",
        target_modules=["0", "2"],
    ),
    "dora": peft.LoraConfig(
        r=2, lora_alpha=6, use_dora=True, init_lora_weights=False, target_modules=["0", "2"]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_eigenvalue_are_those_of_the_dense_hessian(kind: str) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False)).double()
    frozen = [base[0].weight.detach(), base[2].weight.detach()]
    model = peft.get_peft_model(base, KINDS[kind]).double().eval()
    parameters = differentiable(model)
    # A sign has no derivative by C and D, a product has. DoRA trains A, B and the norms of the rows.
    assert len(parameters) == {"sign": 4, "identity": 8, "dora": 6}[kind]
    pairs = zip(factors_of(model, "lora_A"), factors_of(model, "lora_B"), strict=True)
    starts = [W + 3.0 * B @ A for W, (A, B) in zip(frozen, pairs, strict=True)]  # of DoRA

    def reference(*factors: Tensor) -> Tensor:
        if kind != "dora":
            deltas = dual_deltas(model, factors, kind)
            return (output([W + d for W, d in zip(frozen, deltas, strict=True)]) - TARGETS).square().mean()
        weights = []
        for layer, W in enumerate(frozen):
            A, B, m = factors[3 * layer : 3 * layer + 3]
            # The norm is that of the start, whatever A and B are: DoRA's gradient takes it as a constant.
            weights.append((m / starts[layer].norm(dim=1))[:, None] * (W + 3.0 * B @ A))
        return (output(weights) - TARGETS).square().mean()

    halves = [(slice(0, 3), 3 / 7), (slice(3, 7), 4 / 7)]

    def product(vector: list[Tensor]) -> list[Tensor]:
        return hessian_product(
            lambda: (share * (model(X[rows]) - TARGETS[rows]).square().mean() for rows, share in halves),
            parameters,
            vector,
        )

    values = tuple(p.detach().clone() for p in parameters)
    blocks = torch.autograd.functional.hessian(reference, values)
    size = sum(value.numel() for value in values)
    dense = torch.cat(
        [torch.cat([b.reshape(v.numel(), -1) for b in row], 1) for v, row in zip(values, blocks, strict=True)]
    )
    assert dense.abs().max() > 0.1
    units = torch.eye(size, dtype=torch.float64)
    sizes = [value.numel() for value in values]
    columns = []
    for unit in units:
        vector = [piece.view_as(v) for piece, v in zip(unit.split(sizes), values, strict=True)]
        columns.append(torch.cat([part.flatten() for part in product(vector)]))
    torch.testing.assert_close(torch.stack(columns), dense)
    expected = float(torch.linalg.eigvalsh(dense)[-1])
    assert largest_eigenvalue(product, parameters) == pytest.approx(expected, rel=1e-3)


def test_the_largest_is_not_the_largest_in_size() -> None:
    matrix = torch.diag(torch.tensor([-9.0, 2.0, 1.0] + [0.5] * 20, dtype=torch.float64))
    parameter = torch.zeros(23, dtype=torch.float64)
    found = largest_eigenvalue(lambda vector: [matrix @ vector[0]], [parameter])
    assert found == pytest.approx(2.0, rel=1e-3)


def test_a_start_is_worked_out_once_for_all_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path)
    monkeypatch.setattr("repro.analysis.curvature._RESIDUAL", 0.9)
    monkeypatch.setattr("repro.analysis.curvature._VECTORS", 2)
    command = [
        "curvature",
        "sweeps/rate_curves",
        "--profile",
        "smoke",
        "--seeds",
        "0",
        "--rows",
        "hira*,base",
    ]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) == 1  # six rates start alike, and the untrained model has no Hessian
    plan = expand(load_experiment("sweeps/rate_curves"), load_profile("smoke"), [0])
    one, two, *_ = (row.specs[0] for row in plan.rows if row.curve == "hira")
    found = known_curvature(one, tmp_path)
    assert found is not None and found.largest > 0
    assert found.parameters == one.trained_parameters
    assert found.examples == one.training.batch_size
    assert known_curvature(two, tmp_path) == found
    # A second call reads it.
    assert main(command) == 0
    assert capsys.readouterr().out == told
    base = next(row.specs[0] for row in plan.rows if not row.specs[0].method.trains)
    with pytest.raises(ConfigError, match="trains nothing"):
        run_curvature(base, Store(tmp_path / "runs"), BaseModels(), batches=1)
