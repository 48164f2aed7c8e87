"""Dual LoRA with frozen factors: the training of one layer in float64, against a loop written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from repro.adapters.dual_lora import Rule, Update
from repro.methods.dual_lora import DualLoRA
from repro.training.finetuning import FineTuning, Prediction
from repro.training.finetuning_data import FineTuningData
from repro.training.spec import TrainingSpec
from tests.adapters.dual_lora.reference import reference_delta, reference_gradients
from tests.tiny_models import run_context

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about workers

STEPS, RATE, DECAY, BETAS, EPS = 6, 5e-2, 0.1, (0.8, 0.95), 1e-3
TRAINING = TrainingSpec(
    epochs=1,
    batch_size=4,
    learning_rate=RATE,
    warmup_steps=0,
    weight_decay=DECAY,
    betas=BETAS,
    eps=EPS,
    gradient_clip=1.0,
    loss_on="all",
    append_eos=False,
)


class Regression(FineTuning):
    """Least squares: half the squared error, a mean over the examples of a batch."""

    probe_tolerance = 0.0

    def loss_sum(self, micro_batch: Any) -> Tensor:
        return 0.5 * (self.model(micro_batch["x"]) - micro_batch["y"]).square().sum()

    def predict(self, items: Sequence[Any]) -> list[Prediction]:
        raise NotImplementedError

    def distance(self, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
        raise NotImplementedError


class Factors(L.Callback):
    """Copies of the factors, before the training and after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.seen.append(factors_of(module.model))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.seen.append(factors_of(module.model))


def factors_of(model: nn.Module) -> dict[str, Tensor]:
    found = model.get_submodule("base_model.model.map")
    return {name: getattr(found, f"dual_lora_{name}")["default"].detach().clone() for name in "ABCD"}


def by_hand(
    start: dict[str, Tensor], W0: Tensor, batches: Sequence[tuple[Tensor, Tensor]], trained: Sequence[str]
) -> list[dict[str, Tensor]]:
    """The factors after each step of AdamW on those that `trained` names for it."""
    factors = {name: factor.clone().requires_grad_() for name, factor in start.items()}
    moments = {name: [torch.zeros_like(factor), torch.zeros_like(factor)] for name, factor in start.items()}
    ends = []
    for step, (x, y) in enumerate(batches):
        update = Update(Rule(), 2 * min(1.0, (step + 1) / 2), **factors)  # a ramp of two steps
        error = x @ (W0 + reference_delta(update)[0].detach()).T - y
        gradients = reference_gradients(update, error.T @ x / len(x))
        gradients = {name: gradients[name] for name in trained[step]}
        norm = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
        rate = RATE * (STEPS - step) / STEPS
        for name, gradient in gradients.items():
            gradient = gradient * min(1.0, 1 / (norm + 1e-6))
            for moment, power, beta in zip(moments[name], (1, 2), BETAS, strict=True):
                moment.mul_(beta).add_((1 - beta) * gradient**power)
            m, v = (
                moment / (1 - beta ** (step + 1)) for moment, beta in zip(moments[name], BETAS, strict=True)
            )
            with torch.no_grad():
                factors[name].mul_(1 - rate * DECAY).sub_(rate * m / (v.sqrt() + EPS))
        ends.append({name: factor.detach().clone() for name, factor in factors.items()})
    return ends


@pytest.mark.parametrize(
    ("settings", "trained", "count"),
    [
        ({}, ["ABCD"] * 6, 36 + 24),
        ({"freeze_direction_after": 0.5}, ["ABCD"] * 3 + ["AB"] * 3, 36 + 24),
        ({"freeze_direction_after": 0.01}, ["ABCD"] + ["AB"] * 5, 36 + 24),
        ({"freeze_direction_after": 0.0}, ["AB"] * 6, 36),
        ({"freeze_magnitude": True}, ["CD"] * 6, 24),
        ({"freeze_magnitude": True, "freeze_direction_after": 0.5}, ["CD"] * 3 + [""] * 3, 24),
    ],
    ids=str,
)
def test_a_training_moves_what_is_not_frozen_and_nothing_else(
    settings: dict[str, Any], trained: list[str], count: int
) -> None:
    torch.manual_seed(0)
    method = DualLoRA(
        magnitude_rank=3, direction_rank=2, alpha=2 * 6**0.5, init_std=0.5, warmup_steps=2, **settings
    )
    base = nn.Sequential()
    base.add_module("map", nn.Linear(7, 5, bias=False, dtype=torch.float64))
    W0 = base.map.weight.detach().clone()
    config = method.peft_config(["map"], "CAUSAL_LM", base)
    config.task_type = None
    model = method.build(base, config).double()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    x = torch.randn(4 * STEPS, 7, dtype=torch.float64)
    y = x @ (W0 + torch.randn_like(W0)).T

    def collate(examples: Sequence[int]) -> tuple[dict[str, Tensor], int]:
        order.extend(examples)
        return {"x": x[list(examples)], "y": y[list(examples)]}, len(examples)

    order: list[int] = []
    context = run_context(None, TRAINING, method, micro_batch_size=4)
    data = FineTuningData(
        train=range(4 * STEPS),
        validation=[],
        test_batches=[],
        fingerprints={},
        length=lambda _: 1,
        collate=collate,
        context=context,
    )
    module, factors = Regression(model, context, data.steps), Factors()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[factors],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)

    batches = [(x[order[i : i + 4]], y[order[i : i + 4]]) for i in range(0, 4 * STEPS, 4)]
    start, *ends = factors.seen
    for step, expected in enumerate(by_hand(start, W0, batches, trained)):
        before = factors.seen[step]
        for name in "ABCD":
            torch.testing.assert_close(ends[step][name], expected[name], rtol=0, atol=1e-12)
            assert torch.equal(ends[step][name], before[name]) == (name not in trained[step]), (step, name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "fixed", "freeze_direction_after": 0.5}, "a fixed direction has no C and D to freeze"),
        (
            {"direction": "fixed", "freeze_magnitude": True},
            "freeze_magnitude is True, and the direction is not",
        ),
        ({"freeze_direction_after": 0.0, "freeze_magnitude": True}, "the direction is not trained either"),
        ({"freeze_direction_after": 1.0}, "less than 1"),
        ({"evaluation_mask": 1}, "evaluation_mask is 1, but direction 'sign' has no random mask"),
    ],
    ids=str,
)
def test_what_cannot_be_frozen_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualLoRA(magnitude_rank=2, **settings)
