"""The shared training: against a plain loop in torch, interrupted and resumed, under one seed and two."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.benchmarks.commonsense.module import CommonsenseModule
from repro.benchmarks.commonsense.settings import ClozeSettings
from repro.methods import Method
from repro.methods.dual_lora import DualLoRA
from repro.methods.fft import FullFineTuning
from repro.methods.lora import LoRA
from repro.models import ModelSpec
from repro.models.loading import load_model
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec
from repro.runs.checkpointing import Checkpoints
from repro.runs.runner import select_weights
from repro.runs.trainer import checkpoint_callbacks
from repro.training.causal_lm import IGNORED, Example, collate
from repro.training.finetuning import trained_state
from repro.training.finetuning_data import FineTuningData
from repro.training.spec import TrainingSpec
from tests.tiny_models import run_context

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Lightning's, about workers and resuming; the tests say more

STEPS = 6  # of two epochs with batches of 5, 5 and 3 examples

PLAIN_LORA = LoRA(rank=2, dropout=0.0)
DROPOUT_LORA = LoRA(rank=2, dropout=0.1)
RAMPED_DUAL_LORA = DualLoRA(magnitude_rank=2, init_std=0.2, warmup="ramp", warmup_steps=4)
FROZEN_DUAL_LORA = RAMPED_DUAL_LORA.model_copy(update={"freeze_direction_after": 0.5})


def settings(**changes: Any) -> TrainingSpec:
    # eps well above the rounding of a gradient: AdamW divides by sqrt(v) + eps, which blows up noise.
    defaults = {
        "epochs": 2,
        "batch_size": 5,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "betas": (0.8, 0.95),
        "eps": 1e-3,
        "loss_on": "completion",
        "append_eos": True,
    }
    return TrainingSpec(**defaults | changes)


@pytest.fixture(scope="module")
def train(examples: list[Example]) -> list[Example]:
    return examples[::4]


@pytest.fixture(scope="module")
def held_out(examples: list[Example]) -> list[Example]:
    return examples[1::8]


def data_of(
    training: TrainingSpec,
    train: Sequence[Example],
    validation: Sequence[Example] = (),
    *,
    seed: int = 0,
    micro: int = 2,
) -> FineTuningData:
    def micro_batch(examples: Sequence[Example]) -> tuple[dict[str, Tensor], int]:
        batch = collate(examples, loss_on=training.loss_on, pad_id=3, row_tokens=1)  # so two share no row
        return batch, int((batch["labels"][:, 1:] != IGNORED).sum())

    return FineTuningData(
        train=train,
        validation=validation,
        test_batches=[],
        fingerprints={},
        length=lambda example: len(example.ids),
        collate=micro_batch,
        context=run_context(None, training, seed=seed, micro_batch_size=micro),
    )


Fit = Callable[..., CommonsenseModule]


@pytest.fixture(scope="module")
def fit(tokenizer: PreTrainedTokenizerBase) -> Fit:
    def fitted(
        model: nn.Module,
        method: Method,
        training: TrainingSpec,
        data: FineTuningData,
        *,
        seed: int = 0,
        callbacks: Sequence[L.Callback] = (),
        plugins: Sequence[CheckpointIO] = (),
        checkpoint: Path | None = None,
    ) -> CommonsenseModule:
        context = run_context(tokenizer, training, method, seed=seed)
        module = CommonsenseModule(model, context, data.steps, ClozeSettings())
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            callbacks=list(callbacks),
            plugins=list(plugins),
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if training.validate_every else 0,
            val_check_interval=training.validate_every,
            check_val_every_n_epoch=None if training.validate_every else 1,
            inference_mode=False,
        )
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint), weights_only=False)
        return module

    return fitted


def trained(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def summed_loss(model: nn.Module, example: Example, loss_on: str) -> tuple[Tensor, int]:
    """transformers' loss of one text, alone and without padding, as a sum; and over how many tokens."""
    labels = torch.tensor([example.ids])
    if loss_on == "completion":
        labels[:, : example.prompt_length] = IGNORED
    targets = int((labels[:, 1:] != IGNORED).sum())
    return model(input_ids=torch.tensor([example.ids]), labels=labels).loss * targets, targets


# --- optimisation -------------------------------------------------------------------------------------------


def plain_loop(model: nn.Module, training: TrainingSpec, examples: Sequence[Example]) -> list[float]:
    """The training written out: no micro-batches, no padding, no Lightning. Returns the losses."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=2, num_training_steps=STEPS)
    losses = []
    for epoch in range(2):
        order = list(range(len(examples)))
        random.Random(f"0/{epoch}").shuffle(order)
        for batch in (order[:5], order[5:10], order[10:]):
            terms = [summed_loss(model, examples[index], training.loss_on) for index in batch]
            loss = sum(term for term, _ in terms) / sum(targets for _, targets in terms)
            loss.backward()
            norm = math.sqrt(sum(float((parameter.grad**2).sum()) for parameter in parameters))
            if training.gradient_clip is not None:
                for parameter in parameters:
                    parameter.grad *= min(1.0, training.gradient_clip / (norm + 1e-6))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss))
    return losses


@pytest.mark.parametrize(
    ("method", "loss_on", "clip", "micro"),
    [
        (PLAIN_LORA, "completion", 1.0, 1),
        (PLAIN_LORA, "completion", 1.0, 3),
        (PLAIN_LORA, "completion", 1.0, 5),
        (PLAIN_LORA, "completion", None, 3),
        (PLAIN_LORA, "all", 1.0, 3),
        (RAMPED_DUAL_LORA, "completion", 1.0, 1),
        (RAMPED_DUAL_LORA, "completion", 1.0, 5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_training_is_a_plain_loop_whatever_the_micro_batches(
    fit: Fit,
    attach: Callable[..., nn.Module],
    train: list[Example],
    method: Method,
    loss_on: str,
    clip: float,
    micro: int,
) -> None:
    """The loss is the mean over the batch's tokens, not the mean of its micro-batches' means."""
    training = settings(loss_on=loss_on, gradient_clip=clip)
    reference, model = attach(method).train(), attach(method)
    start = trained(model)
    losses = plain_loop(reference, training, train)
    module = fit(model, method, training, data_of(training, train, micro=micro))
    assert module.losses == pytest.approx(losses, rel=1e-6)
    for ours, theirs in zip(trained(model), trained(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert max(float((a - b).abs().max()) for a, b in zip(start, trained(model), strict=True)) > 1e-2


def test_clipping_and_the_prompts_loss_matter(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example]
) -> None:
    """Otherwise the test above would not notice their absence."""
    ends = []
    for changes in (
        {},
        {"gradient_clip": None},
        {"loss_on": "all"},
        {"weight_decay": 0.0},
        {"schedule": "constant"},
    ):
        training, model = settings(**changes), attach(PLAIN_LORA)
        fit(model, PLAIN_LORA, training, data_of(training, train, micro=5))
        ends.append(torch.cat([tensor.flatten() for tensor in trained(model)]))
    assert all(float((ends[0] - end).abs().max()) > 1e-4 for end in ends[1:])


@pytest.mark.parametrize("step", [0, 3])
def test_a_loss_that_is_no_number_ends_the_training_in_one_line(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example], step: int
) -> None:
    class Poison(L.Callback):
        def on_train_batch_start(
            self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int
        ) -> None:
            if index == step:
                next(p for p in module.parameters() if p.requires_grad).data.fill_(math.nan)

    training = settings()
    with pytest.raises(FloatingPointError) as error:
        fit(attach(PLAIN_LORA), PLAIN_LORA, training, data_of(training, train), callbacks=[Poison()])
    assert str(error.value).startswith(
        f"the training loss is nan at step {step} of 6; lower the learning rate (now 0.01)"
    )
    assert "\n" not in str(error.value)


def test_texts_that_lost_their_targets_change_no_weight(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example]
) -> None:
    """As LLM-Adapters' cut on the right leaves them, with the loss on completions."""
    cut = [Example(example.ids[: example.prompt_length], example.prompt_length) for example in train]
    training, model = settings(weight_decay=0.0, validate_every=STEPS), attach(PLAIN_LORA)
    before = [tensor.clone() for tensor in trained(model)]
    module = fit(model, PLAIN_LORA, training, data_of(training, cut, cut))
    assert module.losses == [0.0] * STEPS
    assert module.validation_losses == [(STEPS, 0.0)]
    assert same(before, trained(model))


# --- validation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 3, 20])
def test_the_validation_loss_is_the_mean_over_all_held_out_tokens(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example], held_out: list[Example], micro: int
) -> None:
    """Without dropout, at the weights of its step: the last one, so that the model is still the same."""
    method = LoRA(rank=2, dropout=0.5)
    training, model = settings(validate_every=STEPS), attach(method)
    module = fit(model, method, training, data_of(training, train, held_out, micro=micro))
    with torch.no_grad():
        terms = [summed_loss(model.eval(), example, "completion") for example in held_out]
    ((step, loss),) = module.validation_losses
    assert step == STEPS
    assert loss == pytest.approx(float(sum(term for term, _ in terms)) / sum(n for _, n in terms), rel=1e-6)


def test_validating_changes_nothing_of_the_training(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example], held_out: list[Example]
) -> None:
    losses = []
    for every in (None, 1, 4):
        training = settings(validate_every=every)
        module = fit(attach(DROPOUT_LORA), DROPOUT_LORA, training, data_of(training, train, held_out))
        assert [step for step, _ in module.validation_losses] == list(
            range(every, STEPS + 1, every) if every else []
        )
        losses.append(module.losses)
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(("examples_held_out", "every"), [(0, 2), (3, 7)], ids=["no-examples", "too-seldom"])
def test_selecting_the_best_of_no_validation_is_refused(
    train: list[Example], held_out: list[Example], examples_held_out: int, every: int
) -> None:
    """Lightning would keep the last weights without a word."""
    training = settings(validate_every=every, selection="best_validation_loss")
    with pytest.raises(
        ValueError, match=f"{examples_held_out} validation examples, validate_every {every}, 6 steps"
    ):
        data_of(training, train, held_out[:examples_held_out])


# --- checkpoints --------------------------------------------------------------------------------------------


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.fixture(scope="module", params=[DROPOUT_LORA, FROZEN_DUAL_LORA], ids=lambda method: method.name)
def uninterrupted(
    request: pytest.FixtureRequest,
    fit: Fit,
    attach: Callable[..., nn.Module],
    train: list[Example],
    held_out: list[Example],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[CommonsenseModule, Path]:
    """A whole training, and the folder with a checkpoint of each of its steps."""
    method, folder = request.param, tmp_path_factory.mktemp("checkpoints")
    training = settings(validate_every=2)
    data = data_of(training, train, held_out)
    return fit(attach(method), method, training, data, callbacks=[every_step(folder)]), folder


@pytest.mark.parametrize("step", [1, 2, 4, 5, 6])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(
    fit: Fit,
    attach: Callable[..., nn.Module],
    train: list[Example],
    held_out: list[Example],
    uninterrupted: tuple[CommonsenseModule, Path],
    step: int,
) -> None:
    """From other weights and another state of torch's generator; at steps 2, 4, 6 a validation is due."""
    whole, folder = uninterrupted
    training = whole.training_spec
    model = attach(whole.method, seed=99)
    assert not same(trained(model), trained(whole.model))
    resumed = fit(
        model,
        whole.method,
        training,
        data_of(training, train, held_out),
        checkpoint=folder / f"step={step}.ckpt",
    )
    assert resumed.losses == whole.losses
    assert resumed.validation_losses == whole.validation_losses
    ours, theirs = model.state_dict(), whole.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_holds_what_is_trained_and_nothing_of_the_base_model(
    uninterrupted: tuple[CommonsenseModule, Path],
) -> None:
    whole, folder = uninterrupted
    checkpoint = torch.load(folder / "step=6.ckpt", weights_only=False)
    names = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    buffers = {name for name in whole.state_dict() if name.endswith("dual_lora_step.default")}
    assert checkpoint["state_dict"].keys() == names | buffers
    assert bool(buffers) == (whole.method == FROZEN_DUAL_LORA)
    embeddings = whole.model.get_base_model().get_input_embeddings().weight
    # Factors of rank 2 and AdamW's two moments are less than the base model's smallest large tensor.
    assert (folder / "step=6.ckpt").stat().st_size < embeddings.numel() * embeddings.element_size()


@pytest.mark.parametrize("method", [PLAIN_LORA, FullFineTuning()], ids=lambda method: method.name)
def test_tied_embeddings_are_in_the_state_only_where_they_are_trained(
    tiny: ModelSpec, method: Method
) -> None:
    architecture = tiny.architecture | {"tie_word_embeddings": True}
    spec = ModelSpec.model_validate(tiny.model_dump() | {"architecture": architecture})
    model = method.attach(load_model(spec, "causal_lm"), spec.targets_for("commonsense"), "causal_lm")
    names = trained_state(model).keys()
    assert {name for name in names if "lm_head" in name or "embed_tokens" in name} == (
        {"model.embed_tokens.weight", "lm_head.weight"} if method == FullFineTuning() else set()
    )
    assert len(names) == (len(model.state_dict()) if method == FullFineTuning() else 2 * 10)


def test_a_checkpoint_of_another_adapter_is_refused(
    fit: Fit,
    attach: Callable[..., nn.Module],
    train: list[Example],
    uninterrupted: tuple[CommonsenseModule, Path],
    tmp_path: Path,
) -> None:
    whole, folder = uninterrupted
    checkpoint = torch.load(folder / "step=2.ckpt", weights_only=False)
    gone = sorted(checkpoint["state_dict"])[:2]
    for name in gone:
        del checkpoint["state_dict"][name]
    torch.save(checkpoint, tmp_path / "other.ckpt")
    training = settings()
    with pytest.raises(ValueError, match=f"lacks 2 trained tensors, the first is {gone[0]}"):
        fit(
            attach(whole.method),
            whole.method,
            training,
            data_of(training, train),
            checkpoint=tmp_path / "other.ckpt",
        )


# --- selection ----------------------------------------------------------------------------------------------


class Interruption(Exception):
    pass


class Watch(L.Callback):
    """Keeps the trained weights of every validation; interrupts the training in a hook of a step."""

    def __init__(self, hook: str = "", step: int = 0) -> None:
        self.weights: dict[int, list[Tensor]] = {}
        self._hook = hook
        self._step = step

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._interrupt("train", trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._interrupt("validation", trainer)
        self.weights[trainer.global_step] = trained(module)

    def _interrupt(self, hook: str, trainer: L.Trainer) -> None:
        if hook == self._hook and trainer.global_step == self._step:
            raise Interruption


@pytest.mark.parametrize("interrupted", [None, ("validation", 6), ("train", 6), ("train", 7)], ids=str)
def test_the_weights_of_the_lowest_validation_loss_are_selected(
    fit: Fit,
    attach: Callable[..., nn.Module],
    tiny: ModelSpec,
    train: list[Example],
    held_out: list[Example],
    tmp_path: Path,
    interrupted: tuple[str, int] | None,
) -> None:
    """Also after an interruption: just before the validation of a checkpoint's step, just after it, later."""
    training = settings(
        validate_every=2, selection="best_validation_loss", epochs=3, learning_rate=0.2, schedule="constant"
    )
    run = RunSpec(
        model=tiny,
        method=DROPOUT_LORA,
        benchmark=Commonsense(source="local", protocol=ClozeSettings(), validation_size=2),
        training=training,
        seed=0,
    )
    data = data_of(training, train, held_out)

    checkpoints = Checkpoints(tmp_path, run.hash)

    def attempt(model: nn.Module, watch: Watch, checkpoint: Path | None = None) -> CommonsenseModule:
        # A seed under which neither the first nor the last weights are the best.
        return fit(
            model,
            run.method,
            training,
            data,
            callbacks=[watch, *checkpoint_callbacks(run, Execution(checkpoint_minutes=0), checkpoints)],
            plugins=[checkpoints],
            seed=19,
            checkpoint=checkpoint,
        )

    first, second = Watch(*interrupted or ()), Watch()
    if interrupted:
        with pytest.raises(Interruption):
            attempt(attach(run.method), first)
    latest = checkpoints.latest
    assert latest.exists() == bool(interrupted)
    module = (
        attempt(attach(run.method, seed=99), second, latest)
        if interrupted
        else attempt(attach(run.method), second)
    )
    losses = dict(module.validation_losses)
    best = min(losses, key=lambda step: losses[step])
    assert list(losses) == [2, 4, 6, 8]
    assert best == 6  # so that the choice shows
    weights = first.weights | second.weights
    assert not same(trained(module.model), weights[best])
    last = trained_state(module)
    selection = select_weights(run, module, checkpoints)
    assert selection is not None
    chosen, (rule, weights_of_rule) = selection
    assert rule == "last"
    assert all(torch.equal(weights_of_rule[name], last[name]) for name in last)
    module.load_state_dict(chosen, strict=False)
    assert same(trained(module.model), weights[best])


# --- seeds --------------------------------------------------------------------------------------------------


def run_under(
    seed: int, fit: Fit, base: nn.Module, tiny: ModelSpec, train: list[Example]
) -> tuple[list[Tensor], list[float]]:
    """Start and losses of a training as the runner does it: the seed first, then the adapter."""
    L.seed_everything(seed, verbose=False)
    model = DROPOUT_LORA.attach(copy.deepcopy(base), tiny.targets_for("commonsense"), "causal_lm")
    start, training = trained(model), settings()
    return start, fit(model, DROPOUT_LORA, training, data_of(training, train, seed=seed), seed=seed).losses


def test_one_seed_repeats_itself_exactly_and_another_does_not(
    fit: Fit, base: nn.Module, tiny: ModelSpec, train: list[Example]
) -> None:
    first, again, other = (run_under(seed, fit, base, tiny, train) for seed in (7, 7, 8))
    assert first[1] == again[1]
    assert same(first[0], again[0])
    assert all(one != two for one, two in zip(first[1], other[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[0], other[0], strict=True) if a.any())


def test_the_seed_decides_the_order_of_the_data(train: list[Example]) -> None:
    def batches(seed: int) -> list[list[list[int]]]:
        loader = data_of(settings(), train, seed=seed).train_dataloader()
        return [[m["input_ids"].tolist() for m in batch["micro_batches"]] for batch in loader]

    assert batches(0) == batches(0)
    assert batches(0) != batches(1)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_seed_decides_dropout(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example], dropout: float
) -> None:
    """Equal weights and equal data: the first losses differ by dropout alone, and every step draws anew."""
    method, training = (
        LoRA(rank=2, dropout=dropout),
        settings(learning_rate=1e-30, batch_size=13, epochs=3, warmup_steps=0),
    )
    losses = {
        seed: fit(attach(method), method, training, data_of(training, train, micro=13), seed=seed).losses
        for seed in (0, 1)
    }
    every = [loss for seed in losses for loss in losses[seed]]
    assert len({round(loss, 5) for loss in every}) == (6 if dropout else 1)


# --- data ---------------------------------------------------------------------------------------------------


def test_the_position_in_the_data_is_kept_and_found_again(
    fit: Fit, attach: Callable[..., nn.Module], train: list[Example]
) -> None:
    class KeepState(L.Callback):
        def __init__(self) -> None:
            self.states: list[dict[str, Any]] = []

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.states.append(trainer.datamodule.state_dict())

    def indices(data: FineTuningData) -> list[list[list[int]]]:
        return list(data.train_dataloader().sampler)

    keep, training = KeepState(), settings()
    fit(attach(PLAIN_LORA), PLAIN_LORA, training, data_of(training, train), callbacks=[keep])
    assert len(keep.states) == STEPS
    for done, state in enumerate(keep.states, 1):
        data = data_of(training, train)
        data.load_state_dict(state)
        assert indices(data) == indices(data_of(training, train))[done:]
        assert data.steps == STEPS


def test_batches_count_their_targets_and_the_data_their_tokens(
    train: list[Example], held_out: list[Example]
) -> None:
    training = settings()
    data = data_of(training, train, held_out, micro=2)
    assert data.training_tokens == 2 * sum(len(example.ids) for example in train)
    batches = list(data.train_dataloader())
    assert [[len(micro["labels"]) for micro in batch["micro_batches"]] for batch in batches] == 2 * [
        [2, 2, 1],
        [2, 2, 1],
        [2, 1],
    ]
    completion = sum(len(example.ids) - example.prompt_length for example in train)
    assert sum(batch["targets"] for batch in batches) == 2 * completion
    validation = [
        row for b in data.val_dataloader() for m in b["micro_batches"] for row in m["input_ids"].tolist()
    ]
    assert [tuple(token for token in row if token != 3) for row in validation] == [
        example.ids for example in held_out
    ]


def test_without_training_examples_there_is_nothing_to_train_but_still_data() -> None:
    data = data_of(settings(), [])
    assert data.steps == 0
    assert data.training_tokens == 0
    data.load_state_dict({"steps_done": 0})
