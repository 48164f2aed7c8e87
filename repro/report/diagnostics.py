"""Table and figure of the diagnostics that were taken inside the adapters during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.plans.plan import Plan
from repro.report.escapes import figure_text
from repro.report.figures import STYLE, pyplot, save_figure
from repro.training.diagnostics import Diagnostics

# Maximum number of rows in one figure; more cannot be told apart.
_MOST_ROWS = 12

# Measures and their panel titles; shares become percent.
_PANELS = {
    "dead": "entries that ReLU holds at 0 (%)",
    "flipped": "signs that differ from step 0 (%)",
    "flipped_in_step": "signs that turned in one step (%)",
    "relative_norm": "||ΔW|| / ||W0||",
}
_SHARES = ("unchanged", "dead", "zero", "flipped", "flipped_in_step")
# By line style, the factors of the magnitude and of the direction group.
_FACTORS = {"-": ("dual_lora_A", "dual_lora_B"), "--": ("dual_lora_C", "dual_lora_D")}
_MARKERS = "oDs^vP*X<>hd"
_LEGEND_COLUMNS = 6
# Of the legend's small type, in the figure's width, the marks counted as 8 characters.
_LEGEND_CHARACTERS = 190


def diagnostics_table(found: Mapping[str, Iterable[Diagnostics]]) -> pd.DataFrame:
    """Means over layers with the same module name and over seeds; shares in percent.

    Args:
        found: diagnostics of finished runs, by row label.

    Returns:
        Columns `row`, `module` (last part of a layer's path), `step`, `measure` and `value`. A merge error's
        measure is `merge_error/` and the dtype, at the last step.
    """
    lines = [
        {"row": row, "module": layer.rpartition(".")[2], "step": step, "measure": measure, "value": value}
        for row, runs in found.items()
        for run in runs
        for layer, step, measure, value in _values(run)
        if value is not None
    ]
    if not lines:
        return pd.DataFrame(columns=["row", "module", "step", "measure", "value"])
    table = pd.DataFrame(lines)
    table.loc[table["measure"].isin(_SHARES), "value"] *= 100
    return table.groupby(["row", "module", "step", "measure"], sort=False)["value"].mean().reset_index()


def _values(run: Diagnostics) -> Iterable[tuple[str, int, str, float | None]]:
    for layer, series in run.layers.items():
        for measure, values in series.items():
            for step, value in zip(run.steps, values, strict=True):
                yield layer, step, measure, value
    for layer, errors in run.merge_errors.items():
        for dtype, error in errors.items():
            yield layer, run.steps[-1], f"merge_error/{dtype}", error


def draw_diagnostics(plan: Plan, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw one panel per measure and one line per row, as means over the adapted layers.

    Returns:
        The files; none without diagnostics, or with too many rows for one figure.
    """
    rows = list(dict.fromkeys(table["row"]))
    if not rows or len(rows) > _MOST_ROWS:
        return []
    means = table.groupby(["row", "measure", "step"], sort=False)["value"].mean()
    plt = pyplot()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2))
        *panels, gradients, merging = axes.flat
        for index, row in enumerate(rows):
            look = {"color": f"C{index % 7}", "marker": _MARKERS[index], "markersize": 4}
            own = means[row]
            for panel, measure in zip(panels, _PANELS, strict=True):
                if measure in own:
                    panel.plot(own[measure].index, own[measure], label=figure_text(row), **look)
            _draw_gradients(gradients, own, look)
            errors = own[own.index.get_level_values("measure").str.startswith("merge_error/")]
            dtypes = [measure.partition("/")[2] for measure, _ in errors.index]
            merging.plot(dtypes, 100 * errors.to_numpy(), linestyle="none", label=figure_text(row), **look)
        for panel, title in zip(panels, _PANELS.values(), strict=True):
            panel.set_title(title)
            panel.set_xlabel("optimiser step")
        # Rows differ by orders of magnitude; 0, where LoRA starts, is not on a log axis.
        panels[list(_PANELS).index("relative_norm")].set_yscale("log", nonpositive="mask")
        gradients.set(title="gradient norm (of C, D dashed)", xlabel="optimiser step", yscale="log")
        merging.set(title="share of ΔW lost by merging (%)", xlabel="dtype of the weight", yscale="log")
        handles, labels = merging.get_legend_handles_labels()
        columns = min(_LEGEND_COLUMNS, _LEGEND_CHARACTERS // (8 + max(map(len, labels)))) or 1
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=7)
        experiment = plan.experiment
        title = f"{experiment.title}: inside the adapters (means over layers)"
        return save_figure(figure, f"{experiment.name}-diagnostics", title, plan.profile.watermark, folder)


def _draw_gradients(panel: Any, own: pd.Series, look: dict[str, Any]) -> None:
    """Draw Dual LoRA's gradients: solid for the magnitude group, dashed for the direction group."""
    for dashes, factors in _FACTORS.items():
        known = [own[f"gradient/{factor}"] for factor in factors if f"gradient/{factor}" in own]
        if known:
            total = sum(series**2 for series in known) ** 0.5
            panel.plot(total.index, total, linestyle=dashes, **look)
