"""What a run starts from: the pretrained model, or what another run made of it (`RunSpec.init_from`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning as L

from repro.config import ConfigError
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.store import RunWaits, Store
from repro.training.finetuning import trained_state

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


def check_ready(spec: RunSpec, store: Store) -> None:
    """Check that the run from which this one starts is done.

    Raises:
        RunWaits: it is not.
    """
    if spec.parent is not None:
        _check_done(spec.parent, store)


def starting_model(
    spec: RunSpec, store: Store, bases: BaseModels
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A fresh base model for a run, with another run's adapter merged into it where the spec says so.

    Raises:
        RunWaits: that other run is not done.
        ConfigError: it is done, but its adapter was not kept.
    """
    task, precision = spec.benchmark.model_task, spec.training.precision
    merged: dict[str, Tensor] = {}
    if spec.init_from is not None and spec.init_from.reading == "merged":
        parent = spec.init_from.run
        merged = parent.method.merge(trained_model(parent, store, bases)).state_dict()
    model, tokenizer = bases.checkout(spec.model, task, precision, spec.benchmark.num_labels)
    _copy_what_fits(merged, model.state_dict())
    return model, tokenizer


def continue_adapter(spec: RunSpec, model: nn.Module, store: Store, bases: BaseModels) -> None:
    """Replace the fresh adapter and head by those of another run, where the spec says so.

    Everything that training changes is copied, also the counter of a finished warm-up, so that the copied
    update is whole from the first step; and whatever else the adapter saves, such as frozen random factors.
    What is only evaluated is then altered as its method says.

    Raises:
        RunWaits: that other run is not done.
        ConfigError: it is done, but its adapter was not kept.
    """
    if spec.evaluates is not None:
        source = evaluated_model(spec, store, bases)
    elif spec.init_from is not None and spec.init_from.reading == "adapter":
        source = trained_model(spec.init_from.run, store, bases)
    else:
        return
    _copy_what_fits(_adapter_state(spec, source), _adapter_state(spec, model))


def untrained_model(spec: RunSpec, store: Store, bases: BaseModels) -> nn.Module:
    """The model of a run before its first step, its adapter drawn from the run's seed.

    Raises:
        ConfigError: the method looks at training examples before it starts.
    """
    if spec.method.calibration_examples:
        raise ConfigError(
            f"{spec.slug}: {spec.method.name} starts from training examples; take another method"
        )
    L.seed_everything(spec.seed, workers=True, verbose=False)
    model, _ = starting_model(spec, store, bases)
    return spec.method.attach(model, spec.adapted_modules, spec.benchmark.model_task)


def trained_model(spec: RunSpec, store: Store, bases: BaseModels) -> nn.Module:
    """The model of a finished run, as it was trained.

    Raises:
        RunWaits: the run is not done.
        ConfigError: it is done, but its adapter was not kept.
    """
    _check_done(spec, store)
    folder = store.directory(spec) / "adapter"
    if not folder.exists():
        raise ConfigError(
            f"{folder} is missing, and its weights are needed; raise execution.keep_weights_mb in the "
            f"profile, delete {folder.parent} and run it again"
        )
    model, _ = starting_model(spec, store, bases)
    try:
        return spec.method.load(model, folder, spec.adapted_modules, spec.benchmark.model_task)
    except ConfigError as error:
        raise ConfigError(f"{error}; move or delete {folder.parent} to run it again") from error


def evaluated_model(spec: RunSpec, store: Store, bases: BaseModels) -> nn.Module:
    """The model that a run tests, before it is merged: its own, or another run's that its method alters.

    Raises:
        RunWaits, ConfigError: as `trained_model`, of the run that trained it.
    """
    model = trained_model(spec.evaluates or spec, store, bases)
    if spec.evaluates is not None:
        spec.method.alter(model)
    return model


def _adapter_state(spec: RunSpec, model: nn.Module) -> dict[str, Tensor]:
    return trained_state(model) | spec.method.saved(model)[1]


def _check_done(spec: RunSpec, store: Store) -> None:
    try:
        done = store.is_done(spec)
    except ConfigError as error:
        raise RunWaits(f"it starts from a run whose result cannot be used: {error}") from error
    if not done:
        raise RunWaits(f"it starts from {spec.slug}, which is not done")


def _copy_what_fits(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy, in place, every tensor of the same name and shape; a classifier's last layer may differ."""
    for name, tensor in target.items():
        if name in source and source[name].shape == tensor.shape:
            tensor.detach().copy_(source[name])
