"""The callback that takes snapshots of the adapters during training; see `repro.training.diagnostics`."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from repro.adapters.dual_lora import Update
from repro.adapters.dual_lora.layer import DualLoraLayer
from repro.adapters.dual_lora.update import factor_products
from repro.adapters.weight_update import updated_layers, weight_update
from repro.training.diagnostics import Diagnostics

# The dtypes that merge errors are computed for.
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Diagnosing(L.Callback):
    """Takes a snapshot before training and `snapshots` more at equal intervals, the last at its end.

    It draws no random number and changes nothing. A resumed training keeps the snapshots of its first part.
    """

    def __init__(self, snapshots: int, steps: int) -> None:
        self._at = {math.ceil(steps * i / snapshots) for i in range(1, snapshots + 1)} if steps else set()
        self._logger: Any = None
        self._steps: list[int] = []
        self._series: dict[str, dict[str, list[float | None]]] = {}
        self._merge_errors: dict[str, dict[str, float]] = {}
        # By layer, C and D at step 0 and one step before a snapshot.
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._gradients: dict[str, dict[str, float]] = {}

    @property
    def found(self) -> Diagnostics | None:
        """The snapshots so far; None if no layer's update is a matrix, or no snapshot was asked for."""
        if not self._series:
            return None
        layers = {
            layer: {measure: tuple(values) for measure, values in series.items()}
            for layer, series in self._series.items()
        }
        return Diagnostics(steps=tuple(self._steps), layers=layers, merge_errors=self._merge_errors)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._at and not self._steps:
            self._start = _direction_factors(module)
            self._take_snapshot(trainer, module)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step + 1 in self._at:
            self._before = _direction_factors(module)

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        # The gradient of the whole batch, over all devices, before the module clips it.
        if trainer.global_step + 1 in self._at:
            self._gradients = {name: _gradient_norms(layer) for name, layer in _layers(module)}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step in self._at:
            self._take_snapshot(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._at:
            self._merge_errors = {
                name: errors for name, layer in _layers(module) if (errors := _merge_errors(layer))
            }

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "series": self._series, "start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._series = state_dict["steps"], state_dict["series"]
        self._start = state_dict["start"]

    def _take_snapshot(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        logged = {}
        for name, layer in _layers(module):
            measures = _measures(layer, self._start.get(name), self._before.get(name))
            measures |= self._gradients.get(name, dict.fromkeys(_gradient_norms(layer)))
            series = self._series.setdefault(name, {measure: [] for measure in measures})
            for measure, value in measures.items():
                # Four digits are more than a reader needs.
                value = None if value is None else float(f"{value:.4g}")
                series[measure].append(value)
                if value is not None:
                    logged[f"layers/{name}/{measure}"] = value
        self._steps.append(step)
        self._before, self._gradients = {}, {}
        if trainer.logger is not None and logged:
            trainer.logger.log_metrics(logged, step=step)


def _layers(module: Any) -> list[tuple[str, Any]]:
    """Adapted layers with a floating-point weight; a quantised one would have to be dequantised."""
    return [(n, layer) for n, layer in updated_layers(module.model) if _weight(layer).is_floating_point()]


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.get_base_layer().weight
    return weight


def _first_term(layer: DualLoraLayer) -> Update:
    """The trained term; `subtract_initial` adds a second one, which is constant."""
    (adapter,) = layer.active_adapters
    return layer.updates(adapter)[0]


def _direction_factors(module: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of C and D by layer; no entry if the direction is not trained."""
    copies = {}
    for name, layer in _layers(module):
        if isinstance(layer, DualLoraLayer):
            update = _first_term(layer)
            if update.C is not None and update.D is not None:
                copies[name] = (update.C.detach().clone(), update.D.detach().clone())
    return copies


def _measures(
    layer: Any, start: tuple[Tensor, Tensor] | None, before: tuple[Tensor, Tensor] | None
) -> dict[str, float | None]:
    change = weight_update(layer)
    norm = float(change.norm())
    measures: dict[str, float | None] = {
        "unchanged": _share(change == 0),
        "update_norm": norm,
        "relative_norm": norm / float(_weight(layer).detach().float().norm()),
    }
    if isinstance(layer, DualLoraLayer):
        update = _first_term(layer)
        P, Z = factor_products(update)
        measures["dead"] = _share(P <= 0) if update.rule.magnitude_activation == "relu" else None
        measures["zero"] = None if Z is None else _share(Z == 0)
        for measure, then in {"flipped": start, "flipped_in_step": before}.items():
            measures[measure] = None
            if Z is not None and then is not None:
                C, D = (factor.to(Z) for factor in then)
                measures[measure] = _share((Z > 0) != (D @ C > 0))
    return measures


def _share(mask: Tensor) -> float:
    return float(mask.count_nonzero()) / mask.numel()


def _gradient_norms(layer: Any) -> dict[str, float]:
    """Gradient norms by group of the adapter's parameters, without the base layer's."""
    squares: dict[str, float] = {}
    for name, parameter in layer.named_parameters():
        group = name.partition(".")[0]
        if group in layer.adapter_layer_names and parameter.requires_grad:
            found = 0.0 if parameter.grad is None else float(parameter.grad.detach().norm()) ** 2
            squares[f"gradient/{group}"] = squares.get(f"gradient/{group}", 0.0) + found
    return {group: math.sqrt(square) for group, square in squares.items()}


def _merge_errors(layer: Any) -> dict[str, float]:
    """See `Diagnostics`; empty if the update is zero."""
    update = weight_update(layer).double()
    size = float(update.norm())
    if not size:
        return {}
    errors = {}
    for name, dtype in _DTYPES.items():
        exact = _weight(layer).detach().to(dtype).double() + update
        errors[name] = float(f"{float((exact.to(dtype).double() - exact).norm()) / size:.4g}")
    return errors
