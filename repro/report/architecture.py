"""Figure 1: LoRA and Dual LoRA side by side, with the shapes of the modules as built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from repro.plans.plan import Plan
from repro.plans.spec import RunSpec
from repro.report.figures import STYLE, pyplot, save_figure


class LayerShapes(NamedTuple):
    """Shapes (out, in) of one adapted layer's weight, and of its factors by name."""

    name: str
    weight: tuple[int, int]
    factors: dict[str, tuple[int, int]]


def layer_shapes(spec: RunSpec) -> LayerShapes:
    """Shapes of the first layer that the spec's method adapts, built on the meta device."""
    import warnings

    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    from repro.models.loading import meta_model

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        base = meta_model(spec.model, spec.benchmark.model_task)
        model = spec.method.attach(base, spec.adapted_modules, spec.benchmark.model_task)
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer))
    found: tuple[str, Any] = next(layers)
    name, layer = found
    factors = {
        # both lora_A.default.weight and dual_lora_A.default
        parameter_name.split(".")[0].removeprefix("dual_lora_").removeprefix("lora_"): tuple(parameter.shape)
        for parameter_name, parameter in layer.named_parameters()
        if parameter.requires_grad
    }
    return LayerShapes(
        name.removeprefix("base_model.model."), tuple(layer.get_base_layer().weight.shape), factors
    )


def draw_architecture(plan: Plan, folder: Path) -> list[Path]:
    """Draw the plan's first LoRA row and first Dual LoRA row, one panel each. Returns the files."""
    specs = {row.specs[0].method.name: row.specs[0] for row in reversed(plan.rows)}
    lora, dual = layer_shapes(specs["lora"]), layer_shapes(specs["dual_lora"])
    plt = pyplot()
    with plt.style.context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), width_ratios=[1, 1.5])
        _panel(left, "LoRA", lora, [_Branch("BA", "B", "A", 3.4, "C0")], 5)
        groups = [
            _Branch("ReLU(BA)", "B", "A", 3.4, "C1"),
            _Branch("Sign(DC)", "D", "C", 6.4, "C2"),
        ]
        _panel(right, "Dual LoRA", dual, groups, 8)
        title = f"Figure 1: a layer under LoRA and under Dual LoRA ({plan.rows[0].block}, {dual.name})"
        # No watermark: shapes do not depend on the weights.
        return save_figure(figure, "fig1", title, None, folder)


class _Branch(NamedTuple):
    """A product of two factors, `outer` @ `inner`, drawn at `x`."""

    label: str
    outer: str
    inner: str
    x: float
    color: str


def _panel(panel: Any, title: str, shapes: LayerShapes, branches: list[_Branch], width: float) -> None:
    """Draw one method. LoRA's factors act on x in turn; Dual LoRA's form a matrix that is added to W0."""
    d, k = shapes.weight
    dual = len(branches) > 1
    _box(panel, 0.2, 2, 1.9, 3, f"W0\n{d} x {k}\nfrozen", "0.85")
    for branch in branches:
        outer, inner = shapes.factors[branch.outer], shapes.factors[branch.inner]
        _box(panel, branch.x, 1.3, 1.9, 0.9, f"{branch.inner}  {inner[0]} x {inner[1]}", branch.color)
        _box(panel, branch.x, 2.7, 1.9, 0.9, f"{branch.outer}  {outer[0]} x {outer[1]}", branch.color)
        _arrow(panel, (branch.x + 0.95, 2.2), (branch.x + 0.95, 2.7))
    panel.text(1.15, 0.35, f"x  ({k})", ha="center", va="top")
    panel.text(1.15, 6.35, f"y  ({d})", ha="center", va="bottom")
    _arrow(panel, (1.15, 0.5), (1.15, 2))
    _arrow(panel, (1.15, 5), (1.15, 6.3))
    if dual:
        _weight_update(panel, branches, d, k)
    else:
        _added_output(panel, branches[0])
    trained = sum(rows * columns for rows, columns in shapes.factors.values())
    panel.set_title(f"{title}: {trained:,} trained beside {d * k:,}")
    panel.set_xlim(0, width + 0.7)
    panel.set_ylim(-0.2, 6.9)
    panel.set_axis_off()


def _added_output(panel: Any, branch: _Branch) -> None:
    center = branch.x + 0.95
    _line(panel, [(1.15, 0.5), (center, 0.5)])
    _arrow(panel, (center, 0.5), (center, 1.3))
    _line(panel, [(center, 3.6), (center, 5.7)])
    _arrow(panel, (center, 5.7), (1.2, 5.7))
    panel.text(center + 0.1, 4.7, "alpha / r", ha="left", va="center")
    panel.text(0.95, 5.7, "+", ha="center", va="center", fontsize=13)


def _weight_update(panel: Any, branches: list[_Branch], d: int, k: int) -> None:
    first, last = branches
    middle = (first.x + last.x) / 2 + 0.95
    for branch, group in zip(branches, ("magnitude", "direction"), strict=True):
        center = branch.x + 0.95
        _box(panel, branch.x + 0.2, 4.1, 1.5, 0.7, branch.label, "white")
        _arrow(panel, (center, 3.6), (center, 4.1))
        _line(panel, [(center, 4.8), (center, 5.2)])
        _arrow(panel, (center, 5.2), (middle + (0.2 if branch is last else -0.2), 5.2))
        panel.text(center, 1.1, f"{group} group", ha="center", va="top", color="0.3")
    panel.text(middle, 5.2, "⊙", ha="center", va="center", fontsize=14)
    _line(panel, [(middle, 5.35), (middle, 5.9), (2.75, 5.9), (2.75, 3.5)])
    _arrow(panel, (2.75, 3.5), (2.1, 3.5))
    panel.text(middle + 0.15, 5.62, "alpha / sqrt(r1 r2)", ha="left", va="center")
    panel.text(2.85, 6.0, f"update {d} x {k}, added to W0", ha="left", va="bottom")


def _line(panel: Any, points: list[tuple[float, float]]) -> None:
    panel.plot([x for x, _ in points], [y for _, y in points], color="0.3", linewidth=1)


def _box(panel: Any, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    from matplotlib.patches import Rectangle

    alpha = 0.35 if color.startswith("C") else 1.0
    panel.add_patch(Rectangle((x, y), width, height, facecolor=color, alpha=alpha))
    panel.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor="0.3"))
    panel.text(x + width / 2, y + height / 2, text, ha="center", va="center")


def _arrow(panel: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "->", "color": "0.3", "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, arrowprops=look)
