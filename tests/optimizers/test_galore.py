"""AdamW on projected gradients: against torch's AdamW in float64, in what it stores, and resumed."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro.optimizers import ProjectedAdamW, state_bytes

ADAM = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6}
SHAPES = [(7, 4), (4, 7), (5, 5)]
PROJECTORS = ["svd", "gaussian"]


def random_tensors(count: int, shape: tuple[int, ...], seed: int = 0, **options: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, **options) for _ in range(count)]


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_galore_is_adamw_in_the_coordinates_of_the_first_singular_vectors(
    shape: tuple[int, int], rank: int
) -> None:
    gap, scale, decay = 3, 0.25, 0.4
    weight, *gradients = random_tensors(8, shape, dtype=torch.float64)
    parameter = nn.Parameter(weight.clone())
    optimizer = ProjectedAdamW(
        [parameter], **ADAM, weight_decay=decay, rank=rank, update_gap=gap, scale=scale
    )

    tall = shape[0] >= shape[1]
    coordinates = nn.Parameter(torch.zeros(rank, max(shape), dtype=torch.float64))
    adamw = torch.optim.AdamW([coordinates], **ADAM, weight_decay=0)
    for t, gradient in enumerate(gradients):
        steps(optimizer, parameter, [gradient])
        G = gradient.T if tall else gradient
        if t % gap == 0:
            P = torch.linalg.eigh(G @ G.T).eigenvectors.flip(1)[:, :rank]
            # A singular vector has no sign of its own, but kept moments remember the one that was chosen.
            P = P * (P * optimizer.state[parameter]["projector"]).sum(0).sign()
        before = coordinates.detach().clone()
        after = steps(adamw, coordinates, [P.T @ G])
        change = scale * P @ (after - before)
        weight = (weight + (change.T if tall else change)) * (1 - ADAM["lr"] * decay)
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", ["full", "more"])
def test_a_full_projection_along_the_axes_is_adamw(shape: tuple[int, int], rank: str) -> None:
    """Adam goes element by element, so only signed permutations of the axes leave it as it is."""
    weight, *gradients = random_tensors(6, shape, dtype=torch.float64)
    first = torch.zeros(shape, dtype=torch.float64)
    for i in range(min(shape)):  # its singular vectors are axes, in another order
        first[i, (i + 1) % min(shape)] = (-1) ** i * (i + 1)
    gradients = [first, *gradients]
    projected, plain = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    ours = ProjectedAdamW([projected], **ADAM, rank=min(shape) + 3 * (rank == "more"), update_gap=100)
    expected = steps(torch.optim.AdamW([plain], **ADAM, weight_decay=0), plain, gradients)
    torch.testing.assert_close(steps(ours, projected, gradients), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(5,), (4, 7), (2, 3, 4)])
def test_what_is_not_projected_gets_adamw(shape: tuple[int, ...]) -> None:
    weight, *gradients = random_tensors(6, shape, dtype=torch.float64)
    ours, plain = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    optimizer = ProjectedAdamW([{"params": [ours]}], **ADAM, scale=9.0)
    expected = steps(torch.optim.AdamW([plain], **ADAM, weight_decay=0), plain, gradients)
    torch.testing.assert_close(steps(optimizer, ours, gradients), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("shape", [(48, 32), (32, 48)])
def test_the_state_is_as_small_as_the_formula(shape: tuple[int, int], projector: Any) -> None:
    rank = 4
    parameter, vector = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(10))
    groups = [{"params": [parameter], "rank": rank}, {"params": [vector]}]
    optimizer = ProjectedAdamW(groups, **ADAM, projector=projector)
    assert state_bytes(optimizer) == 0
    vector.grad = torch.ones(10)
    steps(optimizer, parameter, random_tensors(2, shape))
    state = optimizer.state[parameter]
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (rank, 48)
    numbers = 2 * rank * 48 + (rank * 32 if projector == "svd" else 0)
    assert state_bytes(optimizer) == 4 * (numbers + 2 * 10)
    stored = [value for value in state.values() if isinstance(value, Tensor)]
    assert sum(value.untyped_storage().nbytes() for value in stored) == 4 * numbers

    adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(shape))])
    steps(adamw, adamw.param_groups[0]["params"][0], random_tensors(1, shape))
    assert state_bytes(adamw) == 4 * (2 * 48 * 32 + 1)  # torch counts steps in a tensor


@pytest.mark.parametrize("projector", PROJECTORS)
def test_resuming_between_two_refreshes_repeats_every_bit(projector: Any) -> None:
    gradients = random_tensors(9, (6, 9))

    def start(seed: int) -> tuple[nn.Parameter, ProjectedAdamW]:
        parameter = nn.Parameter(torch.ones(6, 9))
        settings = {"rank": 2, "update_gap": 3, "projector": projector, "seed": seed}
        return parameter, ProjectedAdamW([parameter], **ADAM, weight_decay=0.1, **settings)

    parameter, optimizer = start(seed=5)
    half = steps(optimizer, parameter, gradients[:4]).clone()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    whole = steps(optimizer, parameter, gradients[4:])

    resumed, other = start(seed=6)
    resumed.data.copy_(half)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert ("projector" in other.state[resumed]) == (projector == "svd")
    assert torch.equal(steps(other, resumed, gradients[4:]), whole)
    assert not torch.equal(whole, half)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_each_refresh_opens_new_dimensions(projector: Any) -> None:
    rank, gap = 2, 3
    parameter = nn.Parameter(torch.zeros(12, 15, dtype=torch.float64))
    optimizer = ProjectedAdamW([parameter], **ADAM, rank=rank, update_gap=gap, projector=projector)
    for step, gradient in enumerate(random_tensors(9, (12, 15), dtype=torch.float64)):
        moved = steps(optimizer, parameter, [gradient])
        assert torch.linalg.matrix_rank(moved) == rank * (step // gap + 1)


def test_garares_projector_follows_seed_and_place() -> None:
    (gradient,) = random_tensors(1, (6, 9))

    def moved(seed: int) -> list[Tensor]:
        pair = [nn.Parameter(torch.zeros(6, 9)) for _ in range(2)]
        for parameter in pair:
            parameter.grad = gradient.clone()
        ProjectedAdamW(pair, **ADAM, rank=2, projector="gaussian", seed=seed).step()
        return [parameter.detach() for parameter in pair]

    first, second = moved(seed=0)
    assert not torch.equal(first, second)
    assert torch.equal(moved(seed=0)[0], first)
    assert not torch.equal(moved(seed=1)[0], first)


def test_garares_step_is_longer_than_galores() -> None:
    """E[P P^T] = I against P^T P = I: longer by the root of min(d, k) / r."""
    shape, rank = (400, 600), 8
    (gradient,) = random_tensors(1, shape)
    length = {}
    for projector in PROJECTORS:
        parameter = nn.Parameter(torch.zeros(shape))
        optimizer = ProjectedAdamW([parameter], **ADAM, rank=rank, projector=projector)  # type: ignore[arg-type]
        length[projector] = float(steps(optimizer, parameter, [gradient]).norm())
    assert length["gaussian"] / length["svd"] == pytest.approx((400 / rank) ** 0.5, rel=0.1)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_autocast_does_not_round_the_projection(projector: Any) -> None:
    results = []
    for enabled in (False, True):
        parameter = nn.Parameter(torch.ones(6, 9))
        optimizer = ProjectedAdamW([parameter], **ADAM, rank=2, projector=projector)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(steps(optimizer, parameter, random_tensors(3, (6, 9))))
    assert torch.equal(*results)


def test_a_closure_gives_gradients_and_the_loss() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = ProjectedAdamW([parameter], **ADAM, rank=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12
    assert closure().item() < 12


def test_a_parameter_without_gradient_stays() -> None:
    used, unused = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = ProjectedAdamW([used, unused], **ADAM, weight_decay=0.1, rank=1)
    steps(optimizer, used, random_tensors(1, (3, 4)))
    assert torch.equal(unused, torch.ones(3, 4)) and unused not in optimizer.state
    assert not torch.equal(used, torch.ones(3, 4))


def test_what_cannot_be_projected_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) cannot be projected, only matrices can; put it into"):
        ProjectedAdamW([nn.Parameter(torch.ones(3))], **ADAM, rank=1)
    with pytest.raises(ValueError, match="unknown projector 'qr'; known: svd, gaussian"):
        ProjectedAdamW([nn.Parameter(torch.ones(3, 3))], **ADAM, rank=1, projector="qr")  # type: ignore[arg-type]
