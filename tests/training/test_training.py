"""Settings of a training, its learning rate against transformers' schedules, and the order of its data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from repro.config import ConfigError, parse
from repro.training.spec import BatchSchedule, TrainingSpec

REQUIRED = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "loss_on": "completion",
    "append_eos": True,
}


def spec(**changes: Any) -> TrainingSpec:
    return parse(REQUIRED | changes, TrainingSpec, "training")


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", REQUIRED)
def test_what_decides_a_comparison_has_no_default(field: str) -> None:
    content = {key: value for key, value in REQUIRED.items() if key != field}
    with pytest.raises(ConfigError, match=f"^training: {field}: missing"):
        parse(content, TrainingSpec, "training")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("schedule", "cosine"),
        ("weight_decay", -0.1),
        ("eps", 0.0),
        ("gradient_clip", 0.0),
        ("loss_on", "prompt"),
        ("precision", "fp16"),
        ("validate_every", 0),
        ("selection", "first"),
        ("batchsize", 16),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        spec(**{field: value})
    line = str(error.value)
    assert line.startswith(f"training: {field}: ")
    assert f"got {value!r}" in line
    assert "\n" not in line


def test_selecting_by_validation_loss_needs_validations() -> None:
    with pytest.raises(ConfigError, match="best_validation_loss needs validate_every"):
        spec(selection="best_validation_loss")
    assert spec(selection="best_validation_loss", validate_every=5).validate_every == 5


def test_the_optimizer_gets_the_settings_of_the_spec() -> None:
    settings = spec(learning_rate=3e-4, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6).optimizer_settings
    assert settings.model_dump() == {
        "learning_rate": 3e-4,
        "weight_decay": 0.1,
        "betas": (0.8, 0.95),
        "eps": 1e-6,
    }


@pytest.mark.parametrize(("examples", "steps"), [(1, 3), (4, 3), (5, 6), (8, 6), (170_420, 127_815)])
def test_steps_count_the_smaller_last_batch_of_every_epoch(examples: int, steps: int) -> None:
    assert spec().steps(examples) == steps


@pytest.mark.parametrize("warmup", [0, 1, 3, 10, 12])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_the_learning_rate_is_that_of_transformers(schedule: str, warmup: int) -> None:
    """Through ten steps and two beyond the end; a warm-up may be as long as the training, or longer."""
    steps = 10
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = (
        get_linear_schedule_with_warmup(optimizer, warmup, steps)
        if schedule == "linear"
        else get_constant_schedule_with_warmup(optimizer, warmup)
    )
    training = spec(schedule=schedule, warmup_steps=warmup)
    for step in range(steps + 2):
        assert training.rate_factor(step, steps) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


# --- order of the data --------------------------------------------------------------------------------------

LENGTHS = [7, 3, 9, 4, 4, 12, 5, 8, 6, 11, 2]


def schedule(**changes: Any) -> BatchSchedule:
    return BatchSchedule(
        **({"lengths": LENGTHS, "batch_size": 4, "micro_batch_size": 2, "epochs": 3, "seed": 0} | changes)
    )


def flat(batch: list[list[int]]) -> list[int]:
    return [index for micro_batch in batch for index in micro_batch]


@pytest.mark.parametrize("batch_size", [1, 4, 11, 20])
def test_every_epoch_sees_every_example_once(batch_size: int) -> None:
    order = schedule(batch_size=batch_size)
    batches = [flat(batch) for batch in order]
    sizes = [len(batch) for batch in batches]
    assert sizes == 3 * [len(LENGTHS[i : i + batch_size]) for i in range(0, len(LENGTHS), batch_size)]
    assert len(order) == len(batches) == spec(batch_size=batch_size).steps(len(LENGTHS))
    seen = [index for batch in batches for index in batch]
    for epoch in range(3):
        assert sorted(seen[11 * epoch : 11 * (epoch + 1)]) == list(range(11))


def test_every_epoch_has_its_own_order() -> None:
    seen = [index for batch in schedule(micro_batch_size=1, batch_size=1) for index in flat(batch)]
    epochs = [seen[:11], seen[11:22], seen[22:]]
    assert all(one != other for one in epochs for other in epochs if one is not other)
    assert list(range(11)) not in epochs


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 9])
def test_micro_batches_cut_a_batch_by_length_without_changing_it(micro_batch_size: int) -> None:
    whole = [sorted(flat(batch)) for batch in schedule(micro_batch_size=4)]
    batches = list(schedule(micro_batch_size=micro_batch_size))
    assert [sorted(flat(batch)) for batch in batches] == whole
    for batch in batches:
        lengths = [LENGTHS[index] for index in flat(batch)]
        assert lengths == sorted(lengths, reverse=True)
        assert all(len(micro_batch) == micro_batch_size for micro_batch in batch[:-1])
        assert 0 < len(batch[-1]) <= micro_batch_size


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    one = list(schedule(seed=5))
    torch.manual_seed(2)
    assert list(schedule(seed=5)) == one
    assert list(schedule(seed=6)) != one
    assert [batch for batch in schedule(seed=5, epochs=1)] == one[:3]


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Golden, from Python's own shuffle seeded with "0/0": another order is another experiment."""
    first_epoch = flat(next(iter(schedule(batch_size=11, lengths=[1] * 11))))
    assert first_epoch == [1, 2, 10, 0, 9, 4, 3, 8, 6, 7, 5]


@pytest.mark.parametrize("start", [0, 1, 4, 8, 9])
def test_a_resumed_training_goes_on_where_it_was(start: int) -> None:
    resumed = schedule()
    resumed.start = start
    assert list(resumed) == list(schedule())[start:]
    assert len(resumed) == 9  # Lightning counts from the beginning


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        schedule(lengths=[])
